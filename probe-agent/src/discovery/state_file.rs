//! The state file keeps discovered instances across restarts of the agent: their addresses and ids, as JSON.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
};

use redkeeper_core::ids::InstanceId;
use serde::{Deserialize, Serialize};

/// Content of the state file.
#[derive(Serialize, Deserialize)]
struct StateFile {
    discovered: Vec<StoredInstance>,
}

/// One stored instance. It keeps its id, whichever instance is found first after a restart.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredInstance {
    pub(super) address: String,
    pub(super) id: String,
}

/// Maximum size of the state file: 5,000 addresses of 256 bytes and ids of 128, with names and quotes.
const STATE_FILE_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// Reads what a previous run of the agent had discovered. A missing file counts as empty.
///
/// # Errors
/// When the file cannot be read, or is damaged.
pub(super) fn read(file: &Path) -> io::Result<Vec<StoredInstance>> {
    let text = match fs::metadata(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
        Ok(metadata) if metadata.len() > STATE_FILE_BYTES_MAX => {
            return Err(io::Error::other("is too large to be what an agent wrote"));
        }
        Ok(_) => fs::read_to_string(file)?,
    };
    let text: StateFile = serde_json::from_str(&text)?;
    Ok(text.discovered)
}

/// Serializes ids by address, in the format that [`read`] reads.
pub(super) fn serialize(ids: BTreeMap<String, InstanceId>) -> String {
    let all = ids.into_iter().map(|(address, id)| StoredInstance {
        address,
        id: id.to_string(),
    });
    let text = StateFile {
        discovered: all.collect(),
    };
    serde_json::to_string(&text).unwrap_or_default()
}

/// Writes the state file atomically: it is complete at any time, also after a power failure.
///
/// # Errors
/// When the folder is missing or not writable.
pub(crate) fn write(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = fs::File::create(&new)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests;
