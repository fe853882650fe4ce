//! ZooKeeper's transaction log, the ground truth of who wrote what: nothing is sampled. Reads the server's own
//! files (format: `FileTxnLog`, `TxnHeader` and the records of `zookeeper.jute` in release 3.8).

use std::path::Path;

use crate::history::{Op, Txn};

const CREATE: [i32; 4] = [1, 15, 19, 21];
const DELETE: [i32; 2] = [2, 20];
const SET_DATA: i32 = 5;
const CHECK: i32 = 13;
const MULTI: i32 = 14;
const CLOSE_SESSION: i32 = -11;

/// Reads all logs below the server's data directory, in order. A record that the server is just writing may be missing.
///
/// # Panics
/// When there is no log, or a file is not a valid one.
pub fn read(data: &Path) -> Vec<Txn> {
    let mut logs: Vec<_> = std::fs::read_dir(data.join("version-2"))
        .expect("data directory")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("log."))
        })
        .collect();
    logs.sort_by_key(|path| {
        let name = path
            .extension()
            .map(|e| e.to_string_lossy().into_owned())
            .unwrap_or_default();
        u64::from_str_radix(&name, 16).unwrap_or(0)
    });
    assert!(!logs.is_empty(), "no log below {}", data.display());
    let mut txns = Vec::new();
    for log in logs {
        let bytes = std::fs::read(&log).expect("a readable log");
        let rest = bytes.strip_prefix(b"ZKLG").expect("the magic of a log");
        // Version and database id follow the magic.
        let mut reader = Reader(&rest[12..]);
        while let Some(txn) = reader.record() {
            txns.extend(reader_of(txn).txn());
        }
    }
    txns
}

fn reader_of(bytes: &[u8]) -> Reader<'_> {
    Reader(bytes)
}

/// Reads big-endian numbers and counted bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Reads counted bytes; a count of -1 stands for none.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.int()?;
        self.take(usize::try_from(n.max(0)).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    /// Reads one record: checksum, counted record, end mark. The file is padded with zeros after the last one.
    fn record(&mut self) -> Option<&'a [u8]> {
        let _checksum = self.long()?;
        let record = self.bytes()?;
        (!record.is_empty() && self.take(1)? == b"B").then_some(record)
    }

    fn txn(&mut self) -> Option<Txn> {
        let session = self.long()?;
        let (_cxid, _zxid, at) = (self.int()?, self.long()?, self.long()?);
        let kind = self.int()?;
        let mut ops = Vec::new();
        if kind == MULTI {
            for _ in 0..self.int()? {
                let kind = self.int()?;
                ops.extend(Reader(self.bytes()?).op(kind));
            }
        } else if kind == CLOSE_SESSION {
            for _ in 0..self.int().unwrap_or(0) {
                ops.push(Op::Delete(self.text()?));
            }
        } else {
            ops.extend(self.op(kind));
        }
        Some(Txn {
            session,
            at: u64::try_from(at).ok()?,
            ops,
        })
    }

    fn op(&mut self, kind: i32) -> Option<Op> {
        match kind {
            kind if CREATE.contains(&kind) => Some(Op::Create(self.text()?, self.bytes()?.to_vec())),
            kind if DELETE.contains(&kind) => Some(Op::Delete(self.text()?)),
            SET_DATA => Some(Op::Set(self.text()?, self.bytes()?.to_vec())),
            CHECK => Some(Op::Check(self.text()?, self.int()?)),
            _ => None,
        }
    }
}
