//! A whole lab up and down.

use super::process::{self, Process};
use super::state::{Lab, MARK, Node, State};
use super::{loops, machine, node, switch};
use crate::error::{Context, Result, refuse};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a killed process may take to disappear.
const DEATH: Duration = Duration::from_secs(20);

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names of the machines, in the order of their addresses.
    pub nodes: Vec<String>,
    /// Programs to put on every machine.
    pub programs: Vec<PathBuf>,
    /// What each machine keeps running; nothing for bare machines.
    pub run: Vec<String>,
    /// A second network for data.
    pub data_link: bool,
}

/// Builds the lab, or whatever of it is missing.
pub fn up(lab: &Lab, plan: &Plan) -> Result<()> {
    if plan.nodes.is_empty() || plan.nodes.len() > 200 {
        return refuse("a lab has between 1 and 200 nodes");
    }
    plan.nodes.iter().try_for_each(|name| switch::check_name(name))?;
    lab.update(|state| {
        make_mount_points()?;
        make_networks(lab, state, plan)?;
        for name in &plan.nodes {
            // The next address that no machine of this lab has.
            let index = state.nodes.values().map(|node| node.index).max().unwrap_or(0) + 1;
            let entry = state.nodes.entry(name.clone()).or_insert_with(|| Node { index, ..Node::default() });
            entry.run.clone_from(&plan.run);
            let running = entry.init.is_some_and(Process::alive);
            for program in &plan.programs {
                node::install(lab, name, program)?;
            }
            if !running {
                node::boot(lab, state, name)?;
            }
        }
        Ok(())
    })
}

/// Host directories that labs had to make, one per line; shared by all labs, removed by the last.
const MADE: &str = "/run/anshin-lab.made";

fn make_mount_points() -> Result<()> {
    let mut made = std::fs::read_to_string(MADE).unwrap_or_default();
    for point in machine::HOST_POINTS {
        if !Path::new(point).exists() {
            made.push_str(&format!("{point}\n"));
            // Written down first: an interruption in between leaves a line too many, not a directory.
            std::fs::write(MADE, &made).at(MADE)?;
            // Another lab that starts at the same moment may have been faster.
            std::fs::create_dir_all(point).at(point)?;
        }
    }
    Ok(())
}

/// Removes the mount points unless another lab's machines use them: removing one would unmount it there.
fn remove_mount_points() {
    if !process::marked(MARK).is_empty() {
        return;
    }
    for point in std::fs::read_to_string(MADE).unwrap_or_default().lines() {
        // Not empty means that somebody else uses it by now.
        let _in_use = std::fs::remove_dir(point);
    }
    let _absent = std::fs::remove_file(MADE);
}

fn make_networks(lab: &Lab, state: &mut State, plan: &Plan) -> Result<()> {
    if !state.switch.is_some_and(Process::alive) {
        state.data_link = plan.data_link;
        let holder = node::start_holder(lab)?;
        state.switch = Some(holder);
        switch::build(holder, plan.data_link)?;
    }
    if !state.client.is_some_and(Process::alive) {
        let holder = node::start_holder(lab)?;
        state.client = Some(holder);
        switch::connect(state, switch::CLIENT, holder, 250)?;
    }
    Ok(())
}

/// Takes every trace of the lab away; also of one that came up halfway, and of one that is gone already.
pub fn down(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let lab = Lab::at(dir)?;
    let lock = lab.lock()?;
    let state = lab.load().unwrap_or_default();
    let devices = kill_all(&lab, &state)?;
    let held = loops::detach(&devices, DEATH);
    unmount_below(dir)?;
    remove_mount_points();
    for path in traces(lab.dir())? {
        let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).at(path.display());
            }
            _ => {}
        }
    }
    drop(lock);
    let _gone = std::fs::remove_file(lab.dir().join("lock"));
    // Only if nothing else was put there.
    let _kept = std::fs::remove_dir(lab.dir());
    if held.is_empty() { Ok(()) } else { refuse(format!("loop devices stay attached: {held:?}")) }
}

/// What a lab leaves in its directory, the lock excepted.
fn traces(dir: &Path) -> Result<Vec<PathBuf>> {
    let named = ["nodes", "lab.json", "lab.json.new", "yesterday", "crashed.img"].map(|name| dir.join(name));
    let entries = std::fs::read_dir(dir).at(dir.display())?.flatten().map(|entry| entry.path());
    // Logs of helpers and control sockets of disks.
    let kinds = entries.filter(|path| path.extension().is_some_and(|kind| kind == "log" || kind == "ctl"));
    Ok(named.into_iter().chain(kinds).collect())
}

/// Ends the lab's fault disks, before anything else: nothing that waits for a disk that hangs can be killed. The kernel
/// answers every request of a file system whose server is gone.
fn end_disks(mark: &str) -> Result<()> {
    let marked = process::marked(MARK).into_iter().filter(|(_, value)| value == mark);
    let disks: Vec<Process> = marked
        .map(|(process, _)| process)
        .filter(|process| process::words(process.pid).get(1).is_some_and(|word| word == "faultdisk"))
        .collect();
    disks.iter().for_each(|disk| disk.signal(Signal::KILL));
    disks.iter().try_for_each(|disk| disk.wait(DEATH))
}

/// Kills what is written down, then whatever carries the lab's mark; returns the loop devices left behind.
fn kill_all(lab: &Lab, state: &State) -> Result<Vec<PathBuf>> {
    let mark = lab.dir().to_string_lossy().into_owned();
    end_disks(&mark)?;
    let mut devices = loops::below(lab.dir());
    let written: Vec<Process> = state
        .nodes
        .values()
        .flat_map(|node| [node.init, node.keeper])
        .chain([state.switch, state.client])
        .chain(state.forwards.iter().map(|forward| forward.process))
        .flatten()
        .collect();
    // Everything in the machines inherits the mark, but only their first processes need killing.
    let marked = process::marked(MARK).into_iter().filter(|(_, value)| *value == mark);
    let marked: Vec<Process> = marked.map(|(process, _)| process).collect();
    for process in written.iter().chain(&marked) {
        devices.extend(loops::of_machine(process.pid));
    }
    devices.sort();
    devices.dedup();
    let machines: Vec<_> = state.nodes.values().map(|node| (node.init, node.keeper)).collect();
    node::end_machines(&machines)?;
    for process in written.iter().chain(&marked) {
        process.signal(Signal::KILL);
    }
    for process in written.iter().chain(&marked) {
        process.wait(DEATH)?;
    }
    Ok(devices)
}

/// Unmounts what was mounted inside the lab's directory, innermost first.
fn unmount_below(dir: &Path) -> Result<()> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").at("list of mounts")?;
    let points = text.lines().filter_map(|line| line.split_whitespace().nth(4)).map(PathBuf::from);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    points.reverse();
    points.iter().try_for_each(|point| crate::sys::unmount(point))
}
