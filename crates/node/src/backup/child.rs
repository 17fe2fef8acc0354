//! Programs that an executor starts: each in a process group of its own, which is gone when the executor has done with it.

use super::stop::Stop;
use anshin_base::Problem;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

/// Between two looks at a program that should end.
const LOOK: Duration = Duration::from_millis(20);
/// From the wish to end to the end.
const GRACE: Duration = Duration::from_secs(10);

/// A program and all that it started in its group.
pub struct Group {
    child: Child,
    what: String,
    ended: bool,
}

impl Group {
    /// Starts it; `what` names it for humans.
    pub fn start(mut command: Command, what: &str) -> Result<Self, Problem> {
        use std::os::unix::process::CommandExt;
        let child = command.process_group(0).spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy().into_owned();
            Problem::new("program", format!("{what}: cannot start {program}: {error}"))
        })?;
        Ok(Self { child, what: what.to_owned(), ended: false })
    }

    /// The process itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends, at most `limit`; then, or when everything is to stop, it is ended.
    pub fn wait(&mut self, limit: Option<Duration>, stop: Option<&Stop>) -> Result<ExitStatus, Problem> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            let failed = |error: std::io::Error| Problem::new("program", error.to_string());
            if let Some(status) = self.child.try_wait().map_err(failed)? {
                self.finish();
                return Ok(status);
            }
            if let Some(reason) = stop.and_then(Stop::reason) {
                self.end();
                return Err(reason);
            }
            if end.is_some_and(|end| Instant::now() > end) {
                self.end();
                let limit = limit.unwrap_or_default().as_secs();
                return Err(Problem::new(
                    "program-timeout",
                    format!("{} took longer than {limit} s", self.what),
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Success, or why not.
    pub fn succeed(&mut self, limit: Option<Duration>, stop: Option<&Stop>) -> Result<(), Problem> {
        let status = self.wait(limit, stop)?;
        if status.success() {
            return Ok(());
        }
        Err(Problem::new("program-failed", format!("{} ended with {status}", self.what)))
    }

    /// Asks it to end, and makes it end.
    pub fn end(&mut self) {
        signal_group(self.pid(), Signal::TERM);
        let until = Instant::now() + GRACE;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        self.finish();
    }

    /// What is left of the group goes with it.
    fn finish(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            signal_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}

/// Nothing happens if the group is gone.
pub fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}
