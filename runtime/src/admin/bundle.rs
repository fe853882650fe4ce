//! `/debug/bundle`: all pages in one archive, for support. It holds no secret: the pages have none.

use std::{io, time::SystemTime};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use super::page::Content;
use crate::{
    blocking::BlockingPool,
    profile::{self, Unit, heap},
};

/// How long making an archive may take.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// Facts of the process that the kernel knows, below `/proc/self`.
const PROCESS_FILES: [&str; 4] = ["status", "limits", "cgroup", "sched"];
/// Longest file of the kernel that is taken.
const PROCESS_FILE_BYTES_MAX: u64 = 256 * 1024;

/// One archive at a time; others wait.
static BUNDLE: BlockingPool = BlockingPool::new(1);

/// The archive of what `content` returns: pages, each with its path below `/debug/`, and further files. It is called once
/// it is this archive's turn.
pub(super) async fn answer(
    content: impl FnOnce() -> (Vec<(String, Content)>, Vec<(String, Vec<u8>)>) + Send + 'static,
) -> Response {
    let made = BUNDLE
        .run(TIMEOUT, move || {
            let (pages, mut files) = content();
            for (path, content) in pages {
                let name = file_name(&path);
                files.push((format!("{name}.txt"), content.text.into_bytes()));
                files.push((format!("{name}.json"), format!("{}\n", content.json).into_bytes()));
            }
            files.extend(heap_profile());
            files.extend(process_files());
            archive(&files)
        })
        .await;
    match made {
        Some(Ok(bytes)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/gzip"),
                (
                    header::CONTENT_DISPOSITION,
                    "attachment; filename=\"redkeeper-debug.tar.gz\"",
                ),
            ];
            (headers, bytes).into_response()
        }
        Some(Err(e)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("no archive: {e}\n")).into_response(),
        None => (
            StatusCode::TOO_MANY_REQUESTS,
            "another archive is being made, or this one takes too long; try again\n",
        )
            .into_response(),
    }
}

/// The name of a page's file.
fn file_name(path: &str) -> String {
    let path = path.trim_start_matches("/debug/");
    match path.split_once('/') {
        Some((folder, rest)) => format!("{folder}/{}", rest.replace('/', "_")),
        None if path.is_empty() => "index".to_owned(),
        None => path.to_owned(),
    }
}

fn heap_profile() -> Vec<(String, Vec<u8>)> {
    match heap::profile(Unit::InUse) {
        Ok(profile) => vec![("heap.pb.gz".to_owned(), profile::pprof_file(&profile))],
        Err(e) => vec![("heap.txt".to_owned(), format!("{e}\n").into_bytes())],
    }
}

fn process_files() -> Vec<(String, Vec<u8>)> {
    let read = |name: &str| {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(format!("/proc/self/{name}"));
        let read = file.and_then(|file| {
            io::Read::read_to_end(&mut io::Read::take(file, PROCESS_FILE_BYTES_MAX), &mut bytes)
        });
        // Not every kernel has every file.
        read.is_ok().then(|| (format!("process/{name}.txt"), bytes))
    };
    PROCESS_FILES.iter().filter_map(|name| read(name)).collect()
}

fn archive(files: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_secs());
        archive.append_data(&mut header, format!("redkeeper-debug/{name}"), bytes.as_slice())?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_get_names_of_files() {
        for (path, name) in [
            ("/debug/", "index"),
            ("/debug/tasks", "tasks"),
            ("/debug/instances/h:1", "instances/h:1"),
            ("/debug/instances/h:/run/../a.sock", "instances/h:_run_.._a.sock"),
        ] {
            assert_eq!(file_name(path), name);
        }
    }

    #[test]
    fn an_archive_holds_the_files() {
        let name = format!("{}.txt", "n".repeat(128));
        let bytes = archive(&[(name.clone(), b"text".to_vec())]).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert!(entry.path().unwrap().ends_with(name));
        assert_eq!(io::read_to_string(&mut entry).unwrap(), "text");
    }
}
