//! The gRPC protocol `heddle.v1` and its conversion from and to the model.
//!
//! ```text
//! control     CLI ─> manager            local    CLI ─> daemon on the same host
//! dispatcher  agent <─> leader          ca       joiner ─> manager
//! raft        manager <─> manager       objects  what they all carry
//! observe     CLI ─> manager
//! ```

pub mod convert;
#[cfg(test)]
mod fuzz;

/// Generated messages, clients and servers.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
pub mod v1 {
    tonic::include_proto!("heddle.v1");
}

/// What the proto files say, as a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/heddle.v1.bin"));
