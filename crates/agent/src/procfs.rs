//! Processes as `/proc` shows them, and killing a set of them without ever hitting a reused number.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

/// A process that cannot be confused with a later one of the same number (of the same boot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// Clock ticks between boot and its start.
    pub(crate) start: u64,
}

/// What `/proc/PID/stat` tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) identity: Identity,
    pub(crate) state: char,
    pub(crate) parent: i32,
}

impl Stat {
    /// A zombie only waits to be reaped: it holds nothing and does nothing.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Most bytes read of a process's environment or map list.
const TEXT_SIZE_MAX: u64 = 4 << 20;

/// The numbers of all processes.
pub(crate) fn pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A process's state and start.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain any character, also `)`.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let start = fields.get(19)?.parse().ok()?;
    let state = fields.first()?.chars().next()?;
    Some(Stat { identity: Identity { pid, start }, state, parent: fields.get(1)?.parse().ok()? })
}

/// The process, if it lives.
pub(crate) fn alive(pid: i32) -> Option<Identity> {
    stat(pid).filter(Stat::is_alive).map(|stat| stat.identity)
}

/// A process's short name.
pub(crate) fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// At most [`TEXT_SIZE_MAX`] bytes of a file under `/proc`.
pub(crate) fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // A process that ends while it is read gives what was read so far.
        let _ = file.take(TEXT_SIZE_MAX).read_to_end(&mut out);
    }
    out
}

/// All living processes that were started with the variable `entry` (`NAME=value`) in their environment, except
/// this one.
pub(crate) fn with_environment(entry: &str) -> Vec<Identity> {
    let own = own_pid();
    let has = |pid: &i32| {
        read(format!("/proc/{pid}/environ")).split(|byte| *byte == 0).any(|var| var == entry.as_bytes())
    };
    pids().into_iter().filter(|pid| *pid != own).filter(has).filter_map(alive).collect()
}

/// A search for the processes marked by `entry` in their environment and all their descendants. Descendants count
/// too because a program may overwrite its environment (PostgreSQL's backends do, for their titles); they are
/// remembered once seen, because with their parent's death the descent is no longer visible.
pub(crate) fn marked_family(entry: String) -> impl FnMut() -> Vec<Identity> {
    let mut seen = BTreeSet::new();
    move || {
        seen.extend(with_environment(&entry));
        let stats: Vec<Stat> = pids().into_iter().filter_map(stat).filter(Stat::is_alive).collect();
        loop {
            let known: BTreeSet<i32> = seen.iter().map(|one: &Identity| one.pid).collect();
            let own = own_pid();
            let children = stats.iter().filter(|one| known.contains(&one.parent) && one.identity.pid != own);
            let before = seen.len();
            seen.extend(children.map(|one| one.identity));
            if seen.len() == before {
                break;
            }
        }
        seen.retain(|one| alive(one.pid) == Some(*one));
        seen.iter().copied().collect()
    }
}

/// This process's number.
pub(crate) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Sends `signal` to exactly this process. False if it no longer exists or may not be signalled.
pub(crate) fn signal(process: Identity, signal: Signal) -> bool {
    let Some(pid) = Pid::from_raw(process.pid) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // The handle is taken first: if the number had been reused before, the start would differ now.
    stat(process.pid).is_some_and(|now| now.identity == process) && pidfd_send_signal(&handle, signal).is_ok()
}

/// Processes by number and name.
pub(crate) type Named = Vec<(i32, String)>;

/// Kills what `find` finds, again and again (killed processes may have started others meanwhile), until it finds
/// nothing or `patience` is over.
///
/// # Errors
/// The processes that are still there, with their names: those that sleep uninterruptibly, or this one itself.
pub(crate) fn kill_all(mut find: impl FnMut() -> Vec<Identity>, patience: Duration) -> Result<Named, Named> {
    let deadline = Instant::now() + patience;
    let mut killed = BTreeMap::new();
    loop {
        let found = find();
        if found.is_empty() {
            return Ok(killed.into_iter().collect());
        }
        for process in &found {
            killed.entry(process.pid).or_insert_with(|| name(process.pid));
            signal(*process, Signal::KILL);
        }
        if Instant::now() >= deadline {
            return Err(found.into_iter().map(|process| (process.pid, name(process.pid))).collect());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Names of processes for a message: at most the first few.
pub(crate) fn list(processes: &[(i32, String)]) -> String {
    const SHOWN: usize = 5;
    let mut out: Vec<String> =
        processes.iter().take(SHOWN).map(|(pid, name)| format!("{name} ({pid})")).collect();
    if processes.len() > SHOWN {
        out.push(format!("and {} more", processes.len() - SHOWN));
    }
    out.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let own = stat(own_pid()).unwrap();
        assert!(own.is_alive());
        assert_eq!(alive(own_pid()), Some(own.identity));
        let other = Identity { start: own.identity.start + 1, ..own.identity };
        assert!(!signal(other, Signal::KILL), "another process's identity must never be signalled");
    }

    #[test]
    fn processes_are_found_by_their_environment_and_killed() {
        let entry = format!("ANSHIN_TEST_MARK=procfs-{}", own_pid());
        let (variable, value) = entry.split_once('=').unwrap();
        let mut child = Command::new("sleep").arg("1000").env(variable, value).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let killed = kill_all(
            || {
                let _ = child.try_wait();
                with_environment(&entry)
            },
            Duration::from_secs(30),
        );
        // The environment is visible only after the child's exec, so the search may have come too early.
        if killed.unwrap().is_empty() {
            while with_environment(&entry).is_empty() {
                std::thread::yield_now();
            }
            assert_eq!(with_environment(&entry)[0].pid, pid);
            child.kill().unwrap();
        }
        child.wait().unwrap();
        assert_eq!(with_environment(&entry), []);
    }
}
