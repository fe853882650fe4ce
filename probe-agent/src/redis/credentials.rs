//! User and password of a connection, and how a password is read from its file.

use std::path::{Path, PathBuf};

use redkeeper_core::{
    limits::EVIDENCE_BYTES_MAX,
    status::{Reason, Verdict, cut},
};

/// User and password. The password stays in its file until a connection needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// ACL user; the default user if absent.
    pub user: Option<String>,
    /// File whose first line is the password, as bytes: in any encoding.
    pub password_file: PathBuf,
}

/// Largest password file that is read: Redis refuses passwords over 512 bytes in practice.
const PASSWORD_FILE_BYTES_MAX: u64 = 4096;

impl Credentials {
    /// Adds to the evidence of a refused password whose it is, and where it stands. No secret is told.
    pub fn explain(&self, verdict: &mut Verdict) {
        if verdict.reason == Reason::AuthFailed {
            let user = self.user.as_deref().unwrap_or("default");
            let text = format!(
                "{}; user {user:?}, password of {}",
                verdict.evidence,
                self.password_file.display()
            );
            verdict.evidence = cut(&text, EVIDENCE_BYTES_MAX).into();
        }
    }

    /// The password as it stands in the file now.
    ///
    /// # Errors
    /// Says which file cannot be used, and why.
    pub fn password(&self) -> Result<Vec<u8>, String> {
        read_password(&self.password_file).map_err(|e| format!("{}: {e}", self.password_file.display()))
    }
}

/// A mark that some editors put before a text: it belongs to no password.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn read_password(path: &Path) -> std::io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("is no regular file"));
    }
    if metadata.len() > PASSWORD_FILE_BYTES_MAX {
        return Err(std::io::Error::other("is too large for a password"));
    }
    let bytes = std::fs::read(path)?;
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(std::io::Error::other("has no password in its first line"));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_password_file_is_taken_as_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (content, password) in [
            (&b"secret"[..], Some(&b"secret"[..])),
            (b"secret\r\nsecond\n", Some(b"secret")),
            (b"\xef\xbb\xbfsecret\n", Some(b"secret")),
            (b"gr\xfcn\n", Some(b"gr\xfcn")),
            (b" a b \n", Some(b" a b ")),
            (b"\xef\xbb\xbf\r\n", None),
            (b"\nsecond", None),
            (b"", None),
        ] {
            std::fs::write(file.path(), content).unwrap();
            assert_eq!(
                read_password(file.path()).ok().as_deref(),
                password,
                "{content:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_file_is_no_password() {
        // As is a pipe, whose reading waits for a writer.
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials {
            user: None,
            password_file: folder.path().to_owned(),
        };
        let error = credentials.password().unwrap_err();
        assert!(error.contains("no regular file"), "{error}");
    }
}
