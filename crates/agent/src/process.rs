//! One short-lived program with everything that may go wrong bounded: its time, its output, its children.
#![allow(unsafe_code)] // `pre_exec`, see SAFETY there

use crate::resource::{Rc, Status};
use anshin_base::Millis;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
};

/// Most bytes kept of each stream: the last ones, because that is where the reason stands.
const OUTPUT_SIZE_MAX: usize = 64 * 1024;
/// How long a program may tidy up between SIGTERM and SIGKILL. Short: a service is waiting.
const GRACE: Duration = Duration::from_millis(500);
/// How long output is awaited after the program's own end. What it started may hold the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(50);

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) rc: Rc,
    pub(crate) status: Status,
    pub(crate) reason: Option<String>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `command` in a process group of its own; at `timeout` the whole group gets SIGTERM, then SIGKILL.
/// The group is killed too if the returned future is dropped.
///
/// # Errors
/// If the program cannot be started at all.
pub(crate) async fn run(mut command: Command, timeout: Duration) -> io::Result<Finished> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0);
    ordinary_process(&mut command);
    let mut child = command.spawn()?;
    let mut group = Group::of(&child);
    let stdout = tail(child.stdout.take());
    let stderr = tail(child.stderr.take());
    let (exit, timed_out) = match tokio::time::timeout(timeout, child.wait()).await {
        Ok(exit) => (exit?, false),
        Err(_) => (end(&mut child, &group).await?, true),
    };
    group.forget();
    let (rc, status, mut reason) = judge(exit);
    let (rc, status) = if timed_out { (Rc::GENERIC, Status::TimedOut) } else { (rc, status) };
    if timed_out {
        reason = Some(format!("not finished after {} ms", timeout.as_millis()));
    }
    let (stdout, stderr) = tokio::join!(collect(stdout), collect(stderr));
    Ok(Finished { rc, status, reason, stdout, stderr })
}

/// Undoes what a child would inherit from a process that is protected from memory pressure: an agent, and the
/// database it starts, must not be exempt from the OOM killer because the daemon is.
pub(crate) fn ordinary_process(command: &mut Command) {
    // SAFETY: open, write, close and sched_setscheduler are async-signal-safe; nothing allocates.
    unsafe {
        command.pre_exec(|| {
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file >= 0 {
                libc::write(file, b"0".as_ptr().cast(), 1);
                libc::close(file);
            }
            let ordinary = libc::sched_param { sched_priority: 0 };
            libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary);
            Ok(())
        });
    }
}

/// Makes the child the leader of a session, and so of a process group, of its own.
pub(crate) fn own_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
    }
}

/// A length of time as the results carry it.
pub(crate) fn millis(length: Duration) -> Millis {
    Millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

/// The process group of a child, killed when dropped before the child's end was seen.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // ESRCH: the group is gone, which is what was wanted.
            let _ = kill_process_group(group, signal);
        }
    }

    /// After the leader was reaped its number may be given to others: never signal it again.
    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

async fn end(child: &mut Child, group: &Group) -> io::Result<ExitStatus> {
    group.signal(Signal::TERM);
    // The leader is waited for without being reaped first by anyone else, so the group's number stays ours. Children
    // that ignore SIGTERM while their leader obeys are killed below, before the leader is reaped.
    tokio::time::sleep(GRACE).await;
    group.signal(Signal::KILL);
    child.wait().await
}

fn judge(exit: ExitStatus) -> (Rc, Status, Option<String>) {
    match (exit.code().and_then(|code| u8::try_from(code).ok()), exit.signal()) {
        (Some(code), _) => (Rc(code), Status::Done, None),
        (None, Some(signal)) => (Rc::GENERIC, Status::Error, Some(format!("killed by signal {signal}"))),
        (None, None) => (Rc::GENERIC, Status::Error, Some("ended in an unknown way".to_owned())),
    }
}

/// What a stream carried last, shared with the reader so that it can be taken while the stream is still open.
type Tail = std::sync::Arc<std::sync::Mutex<Vec<u8>>>;

struct Reading {
    kept: Tail,
    done: tokio::task::JoinHandle<()>,
}

fn tail(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Reading {
    let kept = Tail::default();
    let into = kept.clone();
    let done = tokio::spawn(async move {
        let Some(mut stream) = stream else { return };
        let mut piece = vec![0; 8 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            let Ok(mut kept) = into.lock() else { return };
            kept.extend_from_slice(&piece[..length]);
            let surplus = kept.len().saturating_sub(OUTPUT_SIZE_MAX);
            kept.drain(..surplus);
        }
    });
    Reading { kept, done }
}

async fn collect(mut reading: Reading) -> String {
    // A daemon that the agent left behind may keep the pipe. Reading goes on in the background, so that it never
    // meets a closed pipe; only what has arrived by now belongs to the result.
    let _ = tokio::time::timeout(DRAIN, &mut reading.done).await;
    let kept = reading.kept.lock().map(|kept| kept.clone()).unwrap_or_default();
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_code_and_both_streams_come_back() {
        let finished = run(shell("echo out; echo err >&2; exit 7"), LONG).await.unwrap();
        assert_eq!((finished.rc, finished.status), (Rc::NOT_RUNNING, Status::Done));
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
    }

    #[tokio::test]
    async fn output_is_bounded_and_its_end_is_kept() {
        let finished = run(shell("yes | head -c 1000000; echo the end"), LONG).await.unwrap();
        assert_eq!(finished.stdout.len(), OUTPUT_SIZE_MAX);
        assert!(finished.stdout.ends_with("the end\n"));
    }

    #[tokio::test]
    async fn at_the_timeout_the_whole_group_dies_even_if_it_ignores_the_polite_signal() {
        let script = "trap '' TERM; (trap '' TERM; echo $$; sleep 1000) & wait; sleep 1000";
        let finished = run(shell(script), Duration::from_millis(300)).await.unwrap();
        assert_eq!((finished.rc, finished.status), (Rc::GENERIC, Status::TimedOut));
        let group = Pid::from_raw(finished.stdout.trim().parse().unwrap()).unwrap();
        // Killed members may take a moment to leave the process table; a survivor would sleep for 1000 s.
        for _ in 0..500 {
            if rustix::process::test_kill_process_group(group).is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the group outlived its timeout");
    }

    #[tokio::test]
    async fn what_an_agent_leaves_behind_does_not_hold_up_its_result() {
        let finished = run(shell("sleep 1000 & echo $!"), LONG).await.unwrap();
        assert_eq!(finished.rc, Rc::OK);
        let pid: i32 = finished.stdout.trim().parse().unwrap();
        let left = Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(left, Signal::KILL).expect("the background child is alive");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        assert!(run(Command::new("/nonexistent/agent"), LONG).await.is_err());
    }
}
