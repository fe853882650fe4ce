//! ZooKeeper's transaction log, the ground truth of who wrote what: nothing is sampled.

use std::{path::Path, process::Command};

/// One transaction as the server's own tool prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Txn {
    /// Session that wrote it, as printed.
    pub session: String,
    /// The whole line.
    pub text: String,
}

impl Txn {
    /// Number of operations on paths that contain `part`.
    pub fn touches(&self, part: &str) -> usize {
        self.text.matches(part).count()
    }
}

/// Reads all logs below the server's data directory, in order.
///
/// # Panics
/// When the tool does not run.
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
    let jars =
        ["zookeeper.jar", "slf4j-nop.jar", "commons-cli.jar"].map(|jar| format!("/usr/share/java/{jar}"));
    let mut all = Vec::new();
    for log in logs {
        let output = Command::new("java")
            .args([
                "-cp",
                &jars.join(":"),
                "org.apache.zookeeper.server.persistence.TxnLogToolkit",
                "-d",
            ])
            .arg(&log)
            .output()
            .expect("java runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains("ZooKeeper Transactional Log File"),
            "{text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        all.extend(
            text.lines()
                .filter(|line| line.contains("session 0x"))
                .map(|line| {
                    let session = line
                        .split("session ")
                        .nth(1)
                        .and_then(|rest| rest.split_whitespace().next())
                        .unwrap_or_default();
                    Txn {
                        session: session.to_owned(),
                        text: line.to_owned(),
                    }
                }),
        );
    }
    all
}

/// I1: once `claim` has been applied, no transaction of another session touches `part`.
///
/// # Errors
/// The first transaction that breaks it.
pub fn no_late_write(txns: &[Txn], epoch: u64, part: &str) -> Result<(), String> {
    let holder = format!("\"epoch\":{epoch},\"holder\"");
    let claim = txns
        .iter()
        .position(|txn| txn.text.contains(&holder))
        .ok_or("the claim is not in the log")?;
    let leader = &txns[claim].session;
    match txns[claim..]
        .iter()
        .find(|txn| txn.session != *leader && txn.touches(part) > 0)
    {
        Some(late) => Err(format!("written after the claim of epoch {epoch}: {}", late.text)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_write_is_seen() {
        let txn = |session: &str, text: &str| Txn {
            session: session.to_owned(),
            text: text.to_owned(),
        };
        let claim = txn("0x2", "setData:'/redkeeper/epoch,{\"epoch\":2,\"holder\":\"b\"}");
        let good = [
            txn("0x1", "/redkeeper/instances/aa/x"),
            claim.clone(),
            txn("0x2", "/redkeeper/instances/aa/x"),
        ];
        assert_eq!(no_late_write(&good, 2, "/instances/"), Ok(()));
        let bad = [claim, txn("0x1", "/redkeeper/instances/aa/x")];
        assert!(no_late_write(&bad, 2, "/instances/").is_err());
        assert!(no_late_write(&good, 3, "/instances/").is_err());
    }
}
