//! Output of commands. Unlike `println!`, it does not panic if the output is closed or full.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use crate::exit;

/// Prints the answer. Succeeds also if the reader has closed the output; fails, and reports it, if the answer could not
/// be written.
pub fn answer(text: &str) -> ExitCode {
    answer_to(&mut std::io::stdout().lock(), text)
}

fn answer_to(out: &mut impl Write, text: &str) -> ExitCode {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => exit::OK,
        Err(e) if e.kind() == ErrorKind::BrokenPipe => exit::OK,
        Err(e) => {
            problem(&format!("error: cannot write the answer: {e}"));
            exit::failure()
        }
    }
}

/// Prints what went wrong. If this cannot be written, the exit code still tells.
pub fn problem(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_is_one() {
        let code = |kind| format!("{:?}", answer_to(&mut Broken(kind), "x"));
        assert_eq!(code(ErrorKind::BrokenPipe), format!("{:?}", exit::OK));
        assert_eq!(code(ErrorKind::StorageFull), format!("{:?}", exit::failure()));
    }
}
