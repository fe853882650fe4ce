//! Compiles the `.proto` files without protoc.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["admin_service", "agent_service", "status_service", "peer_service"];
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
    open_enums(&out.join("redkeeper.v1.serde.rs"))?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

/// pbjson refuses to write an enum value that it does not know. The protobuf mapping writes its number.
fn open_enums(path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    const REFUSED: &str = ".map_err(|_| serde::ser::Error::custom(format!(\"Invalid variant {}\", ";
    let text = std::fs::read_to_string(path)?;
    let mut parts = text.split(REFUSED);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let call = out.trim_end().len();
        out.truncate(call);
        let path = out
            .rfind("::try_from(")
            .ok_or("an enum is converted in another way")?;
        let name = out[..path].rfind(char::is_whitespace).map_or(0, |at| at + 1);
        // With the bracket that closes the call, which closes `Ok` then.
        let (name, value) = (out[name..path].to_owned(), out[path + 11..].to_owned());
        out.truncate(out.len() - name.len() - 11 - value.len());
        let (_, rest) = part
            .split_once(")))")
            .ok_or("an enum is refused in another way")?;
        out.push_str(&format!(
            "Ok::<_, S::Error>(crate::open_enum::OpenEnum::<{name}>::new({value})"
        ));
        out.push_str(rest);
    }
    Ok(std::fs::write(path, out)?)
}
