//! A child process that is killed with its owner.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Changes a command so that the kernel kills its process when the thread that starts it ends, for whatever reason. Of
/// the environment it gets only PATH and what the command sets.
pub fn mortal(command: Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    wrapped.envs(set);
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

/// Copies a program, so that it can be started from there. `cp` writes the copy: a file that this process had open for
/// writing could be inherited by a child that another thread starts at that moment, and until that child has called
/// `exec`, starting the copy fails with "Text file busy".
///
/// # Panics
/// When it cannot be copied.
pub fn copy_program(program: &Path, copy: &Path) {
    let mut command = Command::new("cp");
    let status = command
        .args(["--dereference", "--"])
        .arg(program)
        .arg(copy)
        .status();
    let copied = status.as_ref().is_ok_and(ExitStatus::success);
    assert!(
        copied,
        "cannot copy {} to {}: {status:?}",
        program.display(),
        copy.display()
    );
}

/// A running child. Its output goes to a file, never to the test's own.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command whose output goes to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: Command, log: &Path) -> Self {
        let what = format!("{command:?}");
        let mut command = mortal(command);
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("log file");
        let err = out.try_clone().expect("log file");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{what} does not start: {e}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        kill(pid, signal).expect("the process is there");
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Waits for its end without killing it.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("own child") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {limit:?}; log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Number of its open descriptors.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("the process is there")
            .count()
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn resident(&self) -> usize {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process is there");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        line.split_whitespace()
            .nth(1)
            .and_then(|kb| kb.parse::<usize>().ok())
            .expect("a number")
            * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- end of {} ---", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
