//! What runs inside a machine: the keeper that makes its namespaces, and its process 1.

use super::state::Lab;
use crate::error::{Context, Result, refuse};
use crate::sys;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Mount points of a machine that must exist on the host; the lab makes and removes those that do not.
pub const HOST_POINTS: [&str; 3] = ["/etc/anshin", "/var/lib/anshin", "/dev/anshin"];
/// Parts of a node's directory and where the machine sees them. They survive the machine's death, as a disk does.
const DISKS: [(&str, &str); 4] =
    [("etc", "/etc/anshin"), ("lib", "/var/lib/anshin"), ("log", "/var/log"), ("tmp", "/tmp")];
/// Places that are empty after every start, as memory is.
const MEMORY: [&str; 5] = ["/run", "/dev/shm", "/dev/anshin", "/srv", "/mnt"];
/// Where the machine finds the lab's part of its own directory, and the programs under test.
const LAB_DIR: &str = "/run/lab";
/// Between the end of the program and its next start, as a service manager would wait.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Every part of a node's directory.
pub fn parts() -> impl Iterator<Item = &'static str> {
    DISKS.iter().map(|(part, _)| *part).chain(["bin", "lab"])
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").at("pipe to the lab")?;
    out.flush().at("pipe to the lab")
}

/// Holds new namespaces until killed. Its one line tells the lab that they exist.
pub fn hold() -> Result<()> {
    rustix::process::setsid().at("new session")?;
    sys::unshare(sys::NETWORK)?;
    say("ready")?;
    loop {
        std::thread::park();
    }
}

/// Makes a machine's namespaces, waits until the lab has plugged in its cables, and starts process 1.
pub fn keep(dir: &Path, node: &str) -> Result<()> {
    rustix::process::setsid().at("new session")?;
    let own = std::env::current_exe().at("own program")?;
    sys::unshare(sys::MACHINE)?;
    say("ready")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).at("pipe from the lab")?;
    if line.trim() != "go" {
        return refuse("the lab gave up on this machine");
    }
    let mut child = Command::new(own)
        .args(["machine-init", "--dir"])
        .arg(dir)
        .args(["--node", node])
        .stdin(Stdio::null())
        .spawn()
        .at("process 1")?;
    say(&format!("init {}", child.id()))?;
    child.wait().at("process 1")?;
    Ok(())
}

/// Process 1 of a machine: arranges what it sees, then keeps its program running until killed.
pub fn init(dir: &Path, node: &str) -> Result<()> {
    sys::follow_parent()?;
    let lab = Lab::at(dir)?;
    let run = lab.node(node)?.run;
    arrange(&lab, node)?;
    rustix::system::sethostname(node.as_bytes()).at("host name")?;
    say("up")?;
    supervise(node, &run)
}

/// Gives the machine its own view of the file system.
fn arrange(lab: &Lab, node: &str) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).at("private mounts")?;
    let disks: Vec<(PathBuf, &str)> =
        DISKS.iter().map(|(part, place)| (lab.node_dir(node, part), *place)).collect();
    let (own, programs) = (lab.node_dir(node, "lab"), lab.node_dir(node, "bin"));
    for place in MEMORY {
        // Shared memory is for every user, as on a real server.
        empty(place, if place == "/dev/shm" { c"mode=1777" } else { c"mode=0755" })?;
    }
    // PostgreSQL's home on the host is nobody's business inside a machine.
    if Path::new("/var/lib/postgresql").exists() {
        empty("/var/lib/postgresql", c"mode=0755")?;
    }
    for name in ["lab", "lock", "resource-agents", "postgresql"] {
        std::fs::create_dir_all(format!("/run/{name}")).at(format!("/run/{name}"))?;
    }
    mount_bind(&own, LAB_DIR).at(LAB_DIR)?;
    mount_bind(&programs, format!("{LAB_DIR}/bin")).at("programs")?;
    // Last, because the lab's directory may itself lie in one of these places.
    for (source, place) in disks {
        mount_bind(&source, place).at(place)?;
    }
    mount("proc", "/proc", "proc", MountFlags::empty(), None).at("/proc")?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).at("/sys")?;
    let postgres =
        Command::new("chown").args(["postgres:", "/run/postgresql"]).stderr(Stdio::null()).status();
    // Without such a user there is no PostgreSQL to need the directory.
    drop(postgres);
    Ok(())
}

fn empty(place: &str, options: &CStr) -> Result<()> {
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), Some(options)).at(place)
}

/// Search path inside a machine: the program under test first.
pub fn search_path() -> String {
    format!("{LAB_DIR}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Runs the machine's program, starts it again when it ends, and reaps every orphan.
///
/// A file `hold` in the node's part `lab` keeps it from being started, as a stopped unit would be.
fn supervise(node: &str, run: &[String]) -> Result<()> {
    let hold = PathBuf::from(format!("{LAB_DIR}/hold"));
    let mut running: Option<i32> = None;
    let mut not_before = Instant::now();
    loop {
        while let Some((pid, status)) = sys::reap() {
            if running == Some(pid) {
                note(&format!("program of {node} ended with wait status {status}"));
                running = None;
                not_before = Instant::now() + RESTART_PAUSE;
            }
        }
        if running.is_none() && Instant::now() >= not_before && !run.is_empty() && !hold.exists() {
            running = launch(run);
            not_before = Instant::now() + RESTART_PAUSE;
        }
        // Polling: a process 1 without signal handlers cannot be disturbed by anything the program does.
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn launch(run: &[String]) -> Option<i32> {
    let (program, arguments) = run.split_first()?;
    let log = log_file()?;
    let spawned = Command::new(program)
        .args(arguments)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().ok()?)
        .stderr(log)
        .spawn();
    match spawned {
        Ok(child) => i32::try_from(child.id()).ok(),
        Err(error) => {
            note(&format!("cannot start {program}: {error}"));
            None
        }
    }
}

fn log_file() -> Option<File> {
    OpenOptions::new().create(true).append(true).open("/var/log/node.log").ok()
}

fn note(line: &str) {
    if let Some(mut log) = log_file() {
        // A log that cannot be written is no reason to take the machine down.
        let _full = writeln!(log, "lab: {line}");
    }
}
