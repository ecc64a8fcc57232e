//! Compiles `proto/` into Rust, without `protoc`: protox parses, prost and tonic generate.
//!
//! With the feature `json` the description of all messages is kept too, as bytes that the program carries.

use std::path::{Path, PathBuf};

use prost::Message;

const FILES: [&str; 13] = [
    "etcdserverpb/etcdserver.proto",
    "etcdserverpb/rpc.proto",
    "etcdserverpb/raft_internal.proto",
    "mvccpb/kv.proto",
    "authpb/auth.proto",
    "membershippb/membership.proto",
    "leasepb/lease.proto",
    "v3lockpb/v3lock.proto",
    "v3electionpb/v3election.proto",
    "raftpb/raft.proto",
    "walpb/record.proto",
    "snappb/snap.proto",
    "grpc/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [root])?;
    if std::env::var_os("CARGO_FEATURE_JSON").is_some() {
        let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
        let mut bare = descriptors.clone();
        // Comments and positions are of no use at run time.
        bare.file.iter_mut().for_each(|file| file.source_code_info = None);
        std::fs::write(out_dir.join("descriptors.bin"), bare.encode_to_vec())?;
    }
    let mut config = prost_build::Config::new();
    config.bytes(["."]).enable_type_names();
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_transport(true)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
