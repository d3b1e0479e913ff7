//! cluster backup, restore.

use crate::{
    client::{Client, said},
    commands::moment,
};
use anyhow::{Context, Result};
use clap::Args;
use heddle_manager::backup;
use heddle_proto::v1;
use std::{
    io::Write,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

const CHUNK: usize = 1 << 20;

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Replaced if it exists
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `heddle cluster backup` wrote
    file: PathBuf,
    /// Where others reach this host: IP[:PORT] or INTERFACE[:PORT] [default: the only address there is, port 2377]
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Where to listen: IP[:PORT] [default: everywhere]
    #[arg(long, default_value = "", hide_default_value = true)]
    listen_addr: String,
    /// Where this host's tunnels end: IP or INTERFACE [default: the advertise address]
    #[arg(long, default_value = "", hide_default_value = true)]
    data_path_addr: String,
}

/// Whole or not at all, and for root only.
fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = NamedTempFile::new_in(dir)?;
    draft.write_all(bytes)?;
    draft.as_file().sync_all()?;
    draft.persist(file)?;
    std::fs::File::open(dir)?.sync_all()?;
    Ok(())
}

pub async fn back_up(client: &Client, args: &BackupArgs) -> Result<()> {
    let file = &args.file;
    let mut chunks = client.control()?.backup(v1::BackupRequest {}).await.map_err(said)?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await.map_err(said)? {
        bytes.extend(chunk.data);
    }
    // A backup that cannot be read is none.
    let made = backup::read(&bytes)?;
    write(file, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
    println!("Cluster {} at revision {}: {} bytes.", made.cluster.id, made.state.version.0, bytes.len());
    Ok(())
}

pub async fn restore(client: &Client, args: RestoreArgs) -> Result<()> {
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let request = v1::RestoreRequest {
        advertise_addr: args.advertise_addr,
        listen_addr: args.listen_addr,
        data_path_addr: args.data_path_addr,
    };
    let mut chunks = vec![v1::RestoreChunk { request: Some(request), data: Vec::new() }];
    chunks.extend(bytes.chunks(CHUNK).map(|c| v1::RestoreChunk { request: None, data: c.to_vec() }));
    let made = client.local()?.restore(futures::stream::iter(chunks)).await.map_err(said)?.into_inner();
    println!("Cluster {} is as it was at {}.", made.cluster, moment::show(made.made_at_ms));
    println!("This host ({}) is its only manager, at {}.\n", made.node, made.manager_addr);
    println!("Hosts that do not find it there leave and join again:\n");
    println!("    heddle leave --force; heddle join --token {} {}", made.worker_token, made.manager_addr);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_roots_alone_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup");
        for text in ["first", "second"] {
            write(&file, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
        assert!(write(&dir.path().join("none/backup"), b"x").is_err());
    }
}
