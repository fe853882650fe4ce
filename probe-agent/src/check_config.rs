//! Implements for the validated configuration what the runtime requires: the log settings and, for `--check-config`,
//! the present faults. Finding these reads files and `/proc`, so this module depends on both the configuration and
//! discovery.

use redkeeper_runtime::daemon::{Configuration, DebugPages, Log};

use crate::{config::Config, discovery};

impl Configuration for Config {
    fn log(&self) -> &Log {
        &self.log
    }

    fn debug(&self) -> &DebugPages {
        &self.debug
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.files.faults();
        faults.extend(self.unmatched_patterns(discovery::addresses));
        faults
    }
}
