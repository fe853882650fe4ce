#![allow(clippy::unwrap_used)]

use super::*;

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovered.json");
    let ids = BTreeMap::from([
        ("/run/\"odd\"\n.sock".to_owned(), id("h:odd")),
        ("[::1]:6379".to_owned(), id("h:6379")),
    ]);
    write(&file, &serialize(ids.clone())).unwrap();
    let read = read(&file).unwrap().into_iter();
    let read: BTreeMap<_, _> = read.map(|one| (one.address, id(&one.id))).collect();
    assert_eq!(read, ids);
}

#[test]
fn a_missing_file_is_empty_and_what_is_no_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(read(&folder.path().join("none")).unwrap().is_empty());
    assert!(read(folder.path()).is_err());
}

#[test]
fn a_file_that_no_agent_wrote_is_not_read_into_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovered.json");
    let large = fs::File::create(&file).unwrap();
    large.set_len(STATE_FILE_BYTES_MAX + 1).unwrap();
    let error = read(&file).err().unwrap();
    assert!(error.to_string().contains("too large"), "{error}");
}

#[test]
fn the_largest_memory_of_an_agent_is_small_enough_to_be_read() {
    use redkeeper_core::limits::{ADDRESS_BYTES_MAX, AGENT_INSTANCES_MAX, INSTANCE_ID_BYTES_MAX};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovered.json");
    // Quotes take two bytes in JSON.
    let one = |n| {
        let address = format!("/{n:04}{}", "\"".repeat(ADDRESS_BYTES_MAX - 5));
        (address, id(&format!("{n:0INSTANCE_ID_BYTES_MAX$}")))
    };
    write(&file, &serialize((0..AGENT_INSTANCES_MAX).map(one).collect())).unwrap();
    assert_eq!(read(&file).unwrap().len(), AGENT_INSTANCES_MAX);
}

#[test]
fn a_failed_write_leaves_the_former_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovered.json");
    let former = BTreeMap::from([("127.0.0.1:1".to_owned(), id("h:1"))]);
    write(&file, &serialize(former)).unwrap();
    // Something stands in the way of the file that is written first.
    fs::create_dir(folder.path().join("discovered.new")).unwrap();
    assert!(write(&file, &serialize(BTreeMap::new())).is_err());
    assert_eq!(read(&file).unwrap()[0].address, "127.0.0.1:1");
    assert!(write(&folder.path().join("none/discovered.json"), "").is_err());
}
