//! Crashes at random moments under load, and memory pressure.

use super::stage::{PATIENCE, Stage};
use crate::error::{Context, LabError, Result, refuse};
use crate::lab::{node, process, switch};
use crate::report::ms;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Crashes of the volume's process or of both data servers; the file system is clean after its journal every time.
pub fn file_system(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let client = stage.client(&format!("crash{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        stage.pause_up_to(Duration::from_millis(1500));
        let crash = Instant::now();
        let whole = round % 3 != 0;
        if whole {
            crash_both(stage, &active)?;
        } else {
            let volume = node::processes(&stage.lab, &active, &["run", "volume"])?;
            if volume.is_empty() {
                return refuse(format!("{active} has no volume process"));
            }
            volume.iter().for_each(|process| process.signal(Signal::KILL));
        }
        let answered = client.wait_reconnected(crash, PATIENCE)?;
        stage.site.wait_protected(PATIENCE)?;
        nothing_stands_on_the_copy(stage)?;
        stage.done(client);
        stage.rows_are_there()?;
        stage.report.row(&[("whole_servers", f64::from(whole)), ("answer_ms", ms(answered - crash))]);
    }
    Ok(())
}

/// A server that was primary until its volume process died takes down what stood on the volume there (R12).
fn nothing_stands_on_the_copy(stage: &Stage) -> Result<()> {
    let other = stage.site.other(&stage.site.active()?)?;
    let init = stage.lab.init(&other)?.pid;
    let until = Instant::now() + PATIENCE;
    loop {
        let mounts = std::fs::read_to_string(format!("/proc/{init}/mountinfo")).at("mounts")?;
        if !mounts.lines().any(|line| line.split_whitespace().nth(4) == Some("/srv/data")) {
            return Ok(());
        }
        if Instant::now() > until {
            return refuse(format!(
                "the volume is still mounted on {other}, which is not its primary any more"
            ));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Kills both data servers, checks what lies on the disk of the last primary, and starts them again.
fn crash_both(stage: &mut Stage, active: &str) -> Result<()> {
    let nodes = stage.site.data_nodes().to_vec();
    for name in &nodes {
        node::kill(&stage.lab, name)?;
    }
    let image = stage.lab.dir().join("crashed.img");
    copy(&stage.site.backing_file(active), &image)?;
    // Replaying the journal is all that a mount would do.
    let replay =
        Command::new("e2fsck").args(["-E", "journal_only", "-y"]).arg(&image).output().at("e2fsck")?;
    let check = Command::new("fsck.ext4").args(["-fn"]).arg(&image).output().at("fsck.ext4")?;
    std::fs::remove_file(&image).at(image.display())?;
    if !check.status.success() {
        let said = [replay.stdout, check.stdout].concat();
        return refuse(format!("the file system is damaged: {}", String::from_utf8_lossy(&said)));
    }
    for name in &nodes {
        node::start(&stage.lab, name)?;
        switch::cut(&stage.lab, name, false)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("--sparse=always").arg(from).arg(to).status().at("cp")?;
    if copied.success() { Ok(()) } else { refuse(format!("{} could not be copied", from.display())) }
}

/// The machine's memory is full of dirty pages of the volume, then the peer dies: the volume goes on (R17).
pub fn memory(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        let group = Group::around(stage, &active)?;
        let client = stage.client(&format!("memory{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let words = ["dd", "if=/dev/zero", "of=/srv/data/filler", "bs=1M", "count=24", "status=none"];
        let mut filler = node::command(&stage.lab, &active, &words)?.spawn().at("dd")?;
        thread::sleep(Duration::from_millis(100));
        let death = node::kill(&stage.lab, &other)?;
        client.wait_after(death.unplugged, PATIENCE)?;
        client.wait_after(Instant::now(), PATIENCE)?;
        let pause = client.longest_pause(death.at);
        if !filler.wait().at("dd")?.success() {
            return refuse("writing to the volume failed under memory pressure");
        }
        node::output(&stage.lab, &active, &["sync"])?;
        node::output(&stage.lab, &active, &["rm", "/srv/data/filler"])?;
        node::start(&stage.lab, &other)?;
        switch::cut(&stage.lab, &other, false)?;
        stage.site.wait_protected(PATIENCE)?;
        drop(group);
        stage.done(client);
        stage.rows_are_there()?;
        stage.report.row(&[("pause_ms", ms(pause))]);
    }
    Ok(())
}

/// A control group that holds every process of a machine at little more than the memory it uses already.
struct Group {
    path: PathBuf,
    parent: PathBuf,
}

impl Group {
    fn around(stage: &Stage, name: &str) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers");
        let (parent, limit) = if std::fs::read_to_string(&unified).is_ok_and(|text| text.contains("memory")) {
            std::fs::write(root.join("cgroup.subtree_control"), "+memory").at("memory controller")?;
            (root.to_owned(), "memory.max")
        } else if root.join("memory/memory.limit_in_bytes").exists() {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            return Err(LabError::Missing("no memory controller in /sys/fs/cgroup".to_owned()));
        };
        let group = Self { path: parent.join(format!("anshin-lab-{}", std::process::id())), parent };
        std::fs::create_dir_all(&group.path).at(group.path.display())?;
        let init = stage.lab.init(name)?;
        for process in process::same_machine(init.pid) {
            // A process that ended meanwhile needs no limit.
            let _ended = std::fs::write(group.path.join("cgroup.procs"), process.pid.to_string());
        }
        // Pages charged before a process moved stay where they were, so what counts is what is used from now on.
        std::fs::write(group.path.join(limit), (48 << 20).to_string()).at("memory limit")?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for file in [self.path.join("cgroup.procs")] {
            for pid in std::fs::read_to_string(file).unwrap_or_default().lines() {
                let _ended = std::fs::write(self.parent.join("cgroup.procs"), pid);
            }
        }
        let _busy = std::fs::remove_dir(&self.path);
    }
}
