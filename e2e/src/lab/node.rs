//! Starting, killing and freezing machines, and running commands inside them.

use super::machine;
use super::process::{self, Process};
use super::state::{Lab, MARK, State};
use super::{loops, switch};
use crate::error::{Context, LabError, Result, refuse};
use crate::sys;
use rustix::process::Signal;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// How long a killed machine's processes may take to disappear; a process stuck in a dying file system needs a while.
const DEATH: Duration = Duration::from_secs(20);

/// When a machine died.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    /// Just before its cables were unplugged.
    pub at: Instant,
    /// The same moment as others write it down.
    pub clock: SystemTime,
    /// Nothing that anybody sent after this reached it.
    pub unplugged: Instant,
}

/// Starts a helper of the lab, marked so that `down` finds it even if nothing was written down.
pub fn helper(lab: &Lab, arguments: &[&str], log: &str) -> Result<Child> {
    let file = File::options().create(true).append(true).open(lab.dir().join(log)).at(log)?;
    Command::new(std::env::current_exe().at("own program")?)
        .args(arguments)
        .env(MARK, lab.dir())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .at("starting a helper")
}

/// The next line that a helper says, which must begin with `wanted`; what follows it.
pub fn expect_line(from: &mut impl BufRead, wanted: &str) -> Result<String> {
    let mut line = String::new();
    from.read_line(&mut line).at("pipe from a helper")?;
    match line.trim().strip_prefix(wanted) {
        Some(rest) => Ok(rest.trim().to_owned()),
        None => refuse(format!(
            "a helper said {:?} instead of {wanted:?}; its log is in the lab's directory",
            line.trim()
        )),
    }
}

fn process_of(pid: u32) -> Result<Process> {
    let found = i32::try_from(pid).ok().and_then(Process::of);
    found.map_or_else(|| refuse("a helper ended at once; its log is in the lab's directory"), Ok)
}

/// Starts a process that holds a network, and waits for it.
pub fn start_holder(lab: &Lab) -> Result<Process> {
    let mut child = helper(lab, &["hold"], "holders.log")?;
    let holder = process_of(child.id())?;
    let Some(out) = child.stdout.take() else { return refuse("a helper without output") };
    expect_line(&mut BufReader::new(out), "ready")?;
    Ok(holder)
}

/// Switches a machine on.
pub fn start(lab: &Lab, name: &str) -> Result<()> {
    lab.update(|state| {
        if state.node(name)?.init.is_some_and(Process::alive) {
            return Ok(());
        }
        boot(lab, state, name)
    })
}

/// Switches a machine on; the caller holds the lock and saves the state.
pub fn boot(lab: &Lab, state: &mut State, name: &str) -> Result<()> {
    for part in machine::parts() {
        let path = lab.node_dir(name, part);
        std::fs::create_dir_all(&path).at(path.display())?;
    }
    std::fs::create_dir_all(lab.node_dir(name, "lab").join("bin")).at("lab part of the node")?;
    set_mode(&lab.node_dir(name, "tmp"), 0o1777)?;
    let dir = lab.dir().to_string_lossy().into_owned();
    // The keeper's children read what the machine is to run from the file.
    lab.save(state)?;
    let mut child = helper(lab, &["machine-keep", "--dir", &dir, "--node", name], "keepers.log")?;
    let keeper = process_of(child.id())?;
    state.node_mut(name)?.keeper = Some(keeper);
    let (Some(out), Some(mut input)) = (child.stdout.take(), child.stdin.take()) else {
        return refuse("a helper without pipes");
    };
    let mut out = BufReader::new(out);
    expect_line(&mut out, "ready")?;
    let (index, cut) = (state.node(name)?.index, state.node(name)?.cut);
    switch::connect(state, name, keeper, index)?;
    if cut {
        switch::plug(state, name, false)?;
    }
    input.write_all(b"go\n").at("pipe to the keeper")?;
    // Two processes speak on this pipe: the keeper names process 1, and that says when it has arranged its world.
    for _ in 0..2 {
        let said = expect_line(&mut out, "")?;
        if let Some(pid) = said.strip_prefix("init ") {
            state.node_mut(name)?.init = pid.parse().ok().and_then(Process::of);
        } else if said != "up" {
            return refuse(format!(
                "{name} does not start ({said:?}); see keepers.log in the lab's directory"
            ));
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at(path.display())
}

/// Kills a whole machine as a power cut would: first the cables, so that no dying socket says goodbye.
pub fn kill(lab: &Lab, name: &str) -> Result<Death> {
    let (death, leftovers) = lab.update(|state| {
        let node = state.node(name)?.clone();
        let init = node.init.filter(|init| init.alive());
        let devices = init.map(|init| loops::of_machine(init.pid)).unwrap_or_default();
        let (at, clock) = (Instant::now(), SystemTime::now());
        if init.is_some() {
            switch::plug(state, name, false)?;
        }
        let death = Death { at, clock, unplugged: Instant::now() };
        end_machines(&[(init, node.keeper)])?;
        let node = state.node_mut(name)?;
        (node.init, node.keeper) = (None, None);
        Ok((death, devices))
    })?;
    let held = loops::detach(&leftovers, DEATH);
    if held.is_empty() {
        Ok(death)
    } else {
        refuse(format!("{name} is dead but its loop devices stay: {held:?}"))
    }
}

/// Kills machines: process 1 and with it everything inside, and only then the keepers.
///
/// The order matters. The keeper holds the mounts. Without it the last process to exit would unmount the file systems
/// while exiting, and if that one serves a file system below another (FUSE, loop, ext4), it would wait for itself, with
/// the device that its death should close still open: for ever.
pub fn end_machines(machines: &[(Option<Process>, Option<Process>)]) -> Result<()> {
    machines.iter().filter_map(|machine| machine.0).for_each(|init| init.signal(Signal::KILL));
    for init in machines.iter().filter_map(|machine| machine.0) {
        init.wait(DEATH)?;
    }
    // A keeper ends by itself when its machine is gone; one whose machine never came up must be told.
    machines.iter().filter_map(|machine| machine.1).for_each(|keeper| keeper.signal(Signal::KILL));
    for keeper in machines.iter().filter_map(|machine| machine.1) {
        keeper.wait(DEATH)?;
    }
    Ok(())
}

/// Stops every process of a machine where it stands; its kernel part goes on.
pub fn freeze(lab: &Lab, name: &str) -> Result<()> {
    let init = lab.init(name)?;
    // A process that is being made while we look appears in the next look; two equal looks end it.
    let mut seen = Vec::new();
    loop {
        let now = process::same_machine(init.pid);
        for process in &now {
            process.signal(Signal::STOP);
        }
        if now == seen {
            return Ok(());
        }
        seen = now;
    }
}

/// Lets a frozen machine go on.
pub fn thaw(lab: &Lab, name: &str) -> Result<()> {
    let init = lab.init(name)?;
    for process in process::same_machine(init.pid) {
        process.signal(Signal::CONT);
    }
    Ok(())
}

/// A command that will run inside a machine, with its standard streams still free to choose.
pub fn command(lab: &Lab, node: &str, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().at("own program")?);
    command.args(["exec", "--dir"]).arg(lab.dir()).args([node, "--"]).args(words);
    sys::die_with_parent(&mut command);
    Ok(command)
}

/// A command that will run in the client's place.
pub fn client_command(lab: &Lab, words: &[&str]) -> Result<Command> {
    let Some((program, arguments)) = words.split_first() else { return refuse("no command was given") };
    let Some(client) = lab.load()?.client else { return refuse("the lab's client place is not up") };
    let mut command = Command::new(program);
    command.args(arguments);
    sys::run_in_network(&mut command, client.handle()?);
    sys::die_with_parent(&mut command);
    Ok(command)
}

/// Runs a command inside a machine and returns what it printed; an error if it failed.
pub fn output(lab: &Lab, node: &str, words: &[&str]) -> Result<String> {
    let output = command(lab, node, words)?.stdin(Stdio::null()).output().at(words.join(" "))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let words = format!("on {node}: {}", words.join(" "));
    let reason = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    Err(LabError::Tool { command: words, output: reason.trim().to_owned() })
}

/// Runs a command inside a machine in the caller's place: same streams, same exit code.
pub fn exec(lab: &Lab, node: &str, words: &[String]) -> Result<ExitStatus> {
    let Some((program, arguments)) = words.split_first() else { return refuse("no command was given") };
    let handle = lab.init(node)?.handle()?;
    // Joins while this process still has a single thread; the PID namespace takes effect for the child.
    sys::enter(handle.as_fd(), sys::MACHINE)?;
    std::env::set_current_dir("/").at("/")?;
    let mut command = Command::new(resolve(program));
    command.args(arguments).env("PATH", machine::search_path());
    sys::die_with_parent(&mut command);
    command.status().at(program)
}

/// The program that the machine's search path finds; the name itself if none does.
fn resolve(program: &str) -> PathBuf {
    if program.contains('/') {
        return PathBuf::from(program);
    }
    let path = machine::search_path();
    let found = path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| PathBuf::from(program))
}

/// Puts a program among those of a node, under its own name; a running one keeps its old file.
pub fn install(lab: &Lab, node: &str, program: &Path) -> Result<()> {
    let Some(name) = program.file_name() else {
        return refuse(format!("{} is no program", program.display()));
    };
    let bin = lab.node_dir(node, "bin");
    std::fs::create_dir_all(&bin).at(bin.display())?;
    let fresh = bin.join(".fresh");
    std::fs::copy(program, &fresh).at(program.display())?;
    std::fs::rename(&fresh, bin.join(name)).at(program.display())
}

/// Keeps a node's program from being started again, or lets it start.
pub fn hold_program(lab: &Lab, node: &str, held: bool) -> Result<()> {
    let file = lab.node_dir(node, "lab").join("hold");
    match if held { File::create(&file).map(drop) } else { std::fs::remove_file(&file) } {
        Err(error) if !held && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at(file.display()),
    }
}

/// Processes of a node among whose words, without the path of the program, are these in a row.
///
/// A child bears its parent's words until it runs a program of its own; it is none of those meant.
pub fn processes(lab: &Lab, node: &str, words: &[&str]) -> Result<Vec<Process>> {
    let init = lab.init(node)?;
    let matches = |process: &Process| {
        let line = process::words(process.pid);
        let newborn = process::parent(process.pid).is_some_and(|parent| process::words(parent) == line);
        process.pid != init.pid && !newborn && has_in_a_row(&line, words)
    };
    Ok(process::same_machine(init.pid).into_iter().filter(matches).collect())
}

/// Whether whole words of a command line are these. Parts of words say nothing: programs lie in `/run`.
fn has_in_a_row(line: &[String], words: &[&str]) -> bool {
    let program = line.first().and_then(|path| path.rsplit('/').next()).into_iter();
    let line: Vec<&str> = program.chain(line.iter().skip(1).map(String::as_str)).collect();
    line.windows(words.len()).any(|part| part == words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_the_program_is_none_of_its_processes_because_of_the_programs_path() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(has_in_a_row(&line("/run/lab/bin/anshin run node"), &["anshin", "run"]));
        assert!(has_in_a_row(&line("/run/lab/bin/anshin run volume data --port 1"), &["run", "volume"]));
        assert!(!has_in_a_row(&line("/run/lab/bin/anshin status --json"), &["anshin", "run"]));
        assert!(!has_in_a_row(&line("/run/lab/bin/anshin node list"), &["run", "node"]));
        assert!(!has_in_a_row(&[], &["anshin", "run"]));
    }
}
