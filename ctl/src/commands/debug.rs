//! `redkeeper debug`: asks one daemon for its debug pages.

use redkeeper_runtime::debug_client::{self, DebugCommand};

use super::Asked;
use crate::{error::Error, output};

/// The collector's default `admin_listen`.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7402";

impl Asked {
    pub(super) async fn debug(&self, command: &DebugCommand) -> Result<(), Error> {
        let text = debug_client::run(command, DEFAULT_ADDRESS, self.limit, self.json).await?;
        output::text(&text)?;
        Ok(())
    }
}
