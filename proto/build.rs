//! Compiles the `.proto` files without protoc.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["agent_service", "status_service", "peer_service"];
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    for file in files {
        compiler.open_file(format!("redkeeper/v1/{file}.proto"))?;
    }
    let descriptors = compiler.file_descriptor_set();
    let bytes = descriptors.encode_to_vec();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("redkeeper_descriptor.bin"), &bytes)?;
    // pbjson's types for google.protobuf, so that JSON follows the protobuf mapping everywhere.
    let mut config = prost_build::Config::new();
    config
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::pbjson_types")
        .btree_map(["."]);
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallBuffers")
        .compile_fds_with_config(descriptors, config)?;
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)?
        .btree_map(["."])
        .build(&[".redkeeper.v1"])?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
