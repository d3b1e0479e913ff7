//! The flags of what tasks are given of a node.

use super::settings::set;
use crate::commands::pair::bytes;
use clap::Args;
use heddle_model::placement::{NanoCpus, Resources};

/// What is absent stays as it is; 0 is none, as at first.
#[derive(Debug, Args)]
pub struct ResourceFlags {
    /// Processors that a task may use at most, such as 0.5; 0 is no limit
    #[arg(long, value_name = "CPUS")]
    limit_cpu: Option<NanoCpus>,
    /// Memory that a task may use at most, such as 512m; 0 is no limit
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    limit_memory: Option<u64>,
    /// Processes and threads that a task may have at most; 0 is no limit
    #[arg(long, value_name = "COUNT")]
    limit_pids: Option<u64>,
    /// Processors that a node must have free for a task
    #[arg(long, value_name = "CPUS")]
    reserve_cpu: Option<NanoCpus>,
    /// Memory that a node must have free for a task
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    reserve_memory: Option<u64>,
}

impl ResourceFlags {
    pub fn apply(&self, resources: &mut Resources) {
        set(&mut resources.limit.cpu, &self.limit_cpu);
        set(&mut resources.limit.memory, &self.limit_memory);
        set(&mut resources.limit.pids, &self.limit_pids);
        set(&mut resources.reserved.cpu, &self.reserve_cpu);
        set(&mut resources.reserved.memory, &self.reserve_memory);
    }
}

/// `spread=KEY`, docker's only strategy: the key.
pub fn preference(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("spread", key)) if !key.is_empty() => Ok(key.to_owned()),
        _ => Err("use spread=KEY, such as spread=node.labels.zone".into()),
    }
}
