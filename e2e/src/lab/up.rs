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
        make_mount_points(state)?;
        make_networks(lab, state, plan)?;
        for (position, name) in plan.nodes.iter().enumerate() {
            let index = u8::try_from(position + 1).unwrap_or(u8::MAX);
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

fn make_mount_points(state: &mut State) -> Result<()> {
    for point in machine::HOST_POINTS.map(PathBuf::from) {
        if !point.exists() {
            std::fs::create_dir(&point).at(point.display())?;
            state.made.push(point);
        }
    }
    Ok(())
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
    for point in &state.made {
        // Not empty means that somebody else uses it by now.
        let _in_use = std::fs::remove_dir(point);
    }
    for trace in ["nodes", "lab.json", "lab.json.new", "keepers.log", "holders.log", "forwards.log"] {
        let path = lab.dir().join(trace);
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

/// Kills what is written down, then whatever carries the lab's mark; returns the loop devices left behind.
fn kill_all(lab: &Lab, state: &State) -> Result<Vec<PathBuf>> {
    let mark = lab.dir().to_string_lossy().into_owned();
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
    let marked = process::with_environment(MARK, &mark);
    for process in written.iter().chain(&marked) {
        devices.extend(loops::of_machine(process.pid));
    }
    devices.sort();
    devices.dedup();
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
