//! Starting the node's long-lived processes and finding them again.
//!
//! Voter, guard and volume processes must outlive a restart or an upgrade of the daemon. So they are started in sessions of
//! their own, and what identifies one of them (process id and its start time, which together are never reused) is
//! kept in the run directory. A daemon that starts later adopts what it finds alive.

use anshin_base::Problem;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A process that was started, as recorded in the run directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Started {
    pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks between boot and the process's start.
    start_ticks: u64,
    arguments: Vec<String>,
}

/// Wanted processes by name, kept alive.
pub struct Supervisor {
    executable: PathBuf,
    run_dir: PathBuf,
    log_dir: PathBuf,
    wanted: BTreeMap<String, Wanted>,
}

struct Wanted {
    arguments: Vec<String>,
    /// Present if this daemon started it: it must be reaped.
    child: Option<Child>,
    failures: u32,
    next_start: Instant,
}

/// A process that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The name under which it was wanted.
    pub name: String,
    /// How, as far as known: an adopted process's exit code is not.
    pub how: String,
}

/// Pause before a process that ended is started again: first, and at most after repeated failures.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(5);
/// Most that one process's log takes in the run directory, which is memory on most systems; as much again is kept of what
/// went before.
pub const LOG_SIZE_MAX: u64 = 4 << 20;

impl Supervisor {
    /// Processes will be `executable ARGUMENTS…`; their records live in `run_dir`, their output in `log_dir`.
    #[must_use]
    pub fn new(executable: PathBuf, run_dir: PathBuf, log_dir: PathBuf) -> Self {
        Self { executable, run_dir, log_dir, wanted: BTreeMap::new() }
    }

    /// Adds a process that must run from now on. One that runs already under this name is adopted.
    pub fn want(&mut self, name: &str, arguments: &[String]) {
        let wanted =
            Wanted { arguments: arguments.to_vec(), child: None, failures: 0, next_start: Instant::now() };
        self.wanted.entry(name.to_owned()).or_insert(wanted);
    }

    /// Whether a process is wanted under this name.
    #[must_use]
    pub fn is_wanted(&self, name: &str) -> bool {
        self.wanted.contains_key(name)
    }

    /// Starts what is wanted and not alive; returns what ended since the last call, and the processes that cannot be
    /// started, each of which is tried again after a while.
    pub fn tick(&mut self) -> (Vec<Ended>, Vec<Problem>) {
        let (mut ended, mut failed) = (Vec::new(), Vec::new());
        let names: Vec<String> = self.wanted.keys().cloned().collect();
        for name in names {
            if let Some(how) = self.reap(&name) {
                ended.push(Ended { name: name.clone(), how });
            }
            if self.pid_of(&name).is_none()
                && let Err(problem) = self.start_if_due(&name)
            {
                self.put_off(&name);
                failed.push(problem);
            }
        }
        (ended, failed)
    }

    /// Keeps the logs from filling the memory that they lie in: what is beyond `bytes` goes to a second file, in place of the
    /// one that is there. A process appends, so that it goes on at the beginning.
    pub fn bound_logs(&self, bytes: u64) {
        for name in self.wanted.keys() {
            let log = self.log_dir.join(format!("{name}.log"));
            if fs::metadata(&log).is_ok_and(|found| found.len() > bytes) {
                let cut = fs::copy(&log, log.with_extension("log.1"))
                    .and_then(|_| fs::OpenOptions::new().write(true).open(&log))
                    .and_then(|file| file.set_len(0));
                if let Err(error) = cut {
                    tracing::warn!(name, %error, "a log cannot be cut");
                }
            }
        }
    }

    fn put_off(&mut self, name: &str) {
        if let Some(wanted) = self.wanted.get_mut(name) {
            wanted.failures += 1;
            let pause = (RESTART_FIRST * 2u32.saturating_pow(wanted.failures.min(8) - 1)).min(RESTART_MAX);
            wanted.next_start = Instant::now() + pause;
        }
    }

    /// No longer wanted: asks the process to end, and kills it after `patience`.
    pub fn stop(&mut self, name: &str, patience: Duration) {
        let mut wanted = self.wanted.remove(name);
        let Some(pid) = self.pid_of(name) else { return };
        let _ = kill_process(pid, Signal::TERM);
        let until = Instant::now() + patience;
        while self.pid_of(name).is_some() && Instant::now() < until {
            if let Some(child) = wanted.as_mut().and_then(|wanted| wanted.child.as_mut()) {
                let _ = child.try_wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(pid) = self.pid_of(name) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(mut child) = wanted.and_then(|wanted| wanted.child) {
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.record_path(name));
    }

    /// The process id, if the recorded process is alive.
    #[must_use]
    pub fn pid_of(&self, name: &str) -> Option<Pid> {
        let started: Started = serde_json::from_slice(&fs::read(self.record_path(name)).ok()?).ok()?;
        let alive = start_ticks(started.pid).is_some_and(|ticks| ticks == started.start_ticks);
        if alive { Pid::from_raw(started.pid) } else { None }
    }

    fn reap(&mut self, name: &str) -> Option<String> {
        let wanted = self.wanted.get_mut(name)?;
        let status = wanted.child.as_mut()?.try_wait().ok()??;
        wanted.child = None;
        self.put_off(name);
        Some(status.to_string())
    }

    fn start_if_due(&mut self, name: &str) -> Result<(), Problem> {
        let record = self.record_path(name);
        let log = self.log_dir.join(format!("{name}.log"));
        let Some(wanted) = self.wanted.get_mut(name) else { return Ok(()) };
        if Instant::now() < wanted.next_start || wanted.child.is_some() {
            return Ok(());
        }
        let problem = |what: &str, error: std::io::Error| {
            Problem::new("process-start", format!("cannot start `{name}`: {what}: {error}"))
        };
        let output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|error| problem("its log file", error))?;
        let errors = output.try_clone().map_err(|error| problem("its log file", error))?;
        let mut command = Command::new(&self.executable);
        command.args(&wanted.arguments).stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let mut child = command.spawn().map_err(|error| problem("the executable", error))?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let started =
            Started { pid, start_ticks: start_ticks(pid).unwrap_or(0), arguments: wanted.arguments.clone() };
        if let Err(error) = write_whole(&record, &serde_json::to_vec(&started).unwrap_or_default()) {
            // Without its record it would not be found again, and a second one be started beside it.
            let _ = child.kill();
            let _ = child.wait();
            return Err(problem("its record", error));
        }
        wanted.child = Some(child);
        Ok(())
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.run_dir.join(format!("process-{name}.json"))
    }
}

/// Replaces a file's content so that a reader sees the old or the new content, never a part.
///
/// # Errors
/// The file system's.
pub fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, content)?;
    fs::rename(next, path)
}

/// Start time of a process in clock ticks since boot; None if it does not exist or is a zombie.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold spaces; count from its end.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("anshin-supervise-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn arguments(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_later_supervisor_adopts_what_still_runs() {
        let dir = scratch("adopt");
        let mut first = Supervisor::new("/bin/sleep".into(), dir.clone(), dir.clone());
        first.want("nap", &arguments(&["100"]));
        first.tick();
        let pid = first.pid_of("nap").unwrap();

        let mut second = Supervisor::new("/bin/sleep".into(), dir.clone(), dir.clone());
        second.want("nap", &arguments(&["100"]));
        second.tick();
        assert_eq!(second.pid_of("nap"), Some(pid));

        first.stop("nap", Duration::from_secs(5));
        assert_eq!(second.pid_of("nap"), None);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_ends_is_reported_once() {
        let dir = scratch("ended");
        let mut supervisor = Supervisor::new("/bin/false".into(), dir.clone(), dir.clone());
        supervisor.want("fails", &[]);
        supervisor.tick();
        let mut ended = Vec::new();
        while ended.is_empty() {
            ended = supervisor.tick().0;
        }
        assert_eq!(ended[0].name, "fails");
        assert!(ended[0].how.contains('1'), "{}", ended[0].how);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_that_cannot_be_started_keeps_no_other_from_it_and_leaves_nothing() {
        let (run, logs) = (scratch("cannot"), scratch("cannot-logs"));
        // Its log cannot be opened, so that it is not started; that of the other's record cannot be written.
        fs::create_dir(logs.join("first.log")).unwrap();
        fs::create_dir_all(run.join("process-second.json/x")).unwrap();
        let mut supervisor = Supervisor::new("/bin/sleep".into(), run.clone(), logs.clone());
        for name in ["first", "second", "third"] {
            supervisor.want(name, &arguments(&["4242"]));
        }
        for _ in 0..3 {
            let (_, failed) = supervisor.tick();
            assert!(failed.len() <= 2, "{failed:?}");
        }
        assert!(supervisor.pid_of("third").is_some());
        assert!(supervisor.pid_of("first").is_none() && supervisor.pid_of("second").is_none());
        assert!(supervisor.wanted["second"].failures > 0 && supervisor.wanted["second"].child.is_none());
        supervisor.stop("third", Duration::from_secs(5));
        fs::remove_dir_all(run).unwrap();
        fs::remove_dir_all(logs).unwrap();
    }

    #[test]
    fn a_log_does_not_grow_without_end() {
        let dir = scratch("logs");
        let mut supervisor = Supervisor::new("/bin/sleep".into(), dir.clone(), dir.clone());
        supervisor.want("talks", &[]);
        let log = dir.join("talks.log");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        file.write_all(b"a long story").unwrap();
        supervisor.bound_logs(20);
        file.write_all(b" that goes on").unwrap();
        supervisor.bound_logs(20);
        file.write_all(b"and on").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "and on");
        assert_eq!(fs::read_to_string(dir.join("talks.log.1")).unwrap(), "a long story that goes on");
        fs::remove_dir_all(dir).unwrap();
    }
}
