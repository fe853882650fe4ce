//! What the runtime asks of the validated configuration: how to log, and for `--check-config` what is wrong now. That
//! needs a look at files and `/proc`, so it stands above both the configuration and discovery.

use redkeeper_runtime::daemon::{Configuration, Log};

use crate::{config::Config, discovery};

impl Configuration for Config {
    fn log(&self) -> &Log {
        &self.log
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
