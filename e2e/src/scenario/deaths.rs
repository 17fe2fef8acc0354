//! Deaths beyond the first: the witness, the copy, both, and all.

use super::stage::{PATIENCE, Stage};
use crate::control;
use crate::error::{Context, Result, refuse};
use crate::lab::{Lab, node, switch};
use crate::report::ms;
use std::thread;
use std::time::{Duration, Instant};

/// How long a state is watched before it is believed to last.
const WATCHED: Duration = Duration::from_secs(4);
/// After this long nobody may still call a broken state protected.
const NOTICED: Duration = Duration::from_millis(2500);

fn revive(stage: &Stage, names: &[String]) -> Result<Duration> {
    for name in names {
        node::start(&stage.lab, name)?;
        switch::cut(&stage.lab, name, false)?;
    }
    stage.site.wait_protected(PATIENCE)
}

fn witness_of(stage: &Stage) -> Result<String> {
    stage.site.witness().map_or_else(|| refuse("the site has no witness"), |name| Ok(name.to_owned()))
}

/// The witness dies: everything goes on, and the status says that the next failure would stop it.
pub fn witness(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let witness = witness_of(stage)?;
        let client = stage.client(&format!("witness{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let death = node::kill(&stage.lab, &witness)?;
        thread::sleep(WATCHED);
        client.wait_after(Instant::now(), PATIENCE)?;
        let pause = client.longest_pause(death.at);
        stage.never_green(death.at, NOTICED, Instant::now())?;
        stage.report.say(&format!("status: {}", stage.site.leading_status()?.sentence()));
        let back = revive(stage, &[witness])?;
        stage.done(client);
        stage.rows_are_there()?;
        stage.report.row(&[("pause_ms", ms(pause)), ("protected_again_s", back.as_secs_f64())]);
    }
    Ok(())
}

/// The copy dies and is removed; then the witness dies: the primary goes on alone and says so.
pub fn secondary_then_witness(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let (active, witness) = (stage.site.active()?, witness_of(stage)?);
        let other = stage.site.other(&active)?;
        let client = stage.client(&format!("alone{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let first = node::kill(&stage.lab, &other)?;
        let alone = [active.clone()];
        stage.site.wait("alone", PATIENCE, |status| status.in_sync() == alone)?;
        node::kill(&stage.lab, &witness)?;
        thread::sleep(WATCHED);
        client.wait_after(Instant::now(), PATIENCE)?;
        let pause = client.longest_pause(first.at);
        stage.never_green(first.at, NOTICED, Instant::now())?;
        stage.report.say(&format!("status: {}", stage.site.status(&active)?.sentence()));
        let back = revive(stage, &[witness, other])?;
        stage.done(client);
        stage.rows_are_there()?;
        stage.report.row(&[("pause_ms", ms(pause)), ("protected_again_s", back.as_secs_f64())]);
    }
    Ok(())
}

/// The copy and the witness die at the same moment: the survivor suspends, says why, and goes on when they return.
pub fn both(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let (active, witness) = (stage.site.active()?, witness_of(stage)?);
        let other = stage.site.other(&active)?;
        let client = stage.client(&format!("both{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let death = node::kill(&stage.lab, &other)?;
        node::kill(&stage.lab, &witness)?;
        thread::sleep(NOTICED);
        let quiet = Instant::now();
        thread::sleep(WATCHED);
        if client.first_after(quiet).is_some() {
            return refuse("the survivor acknowledged writes although it had lost copy and witness at once");
        }
        let status = stage.site.status(&active)?;
        let Some(why) = status.suspended() else {
            return refuse("the survivor suspends and does not say why");
        };
        stage.report.say(&format!("status: {}; suspended: {why}", status.sentence()));
        stage.never_green(death.at, NOTICED, Instant::now())?;
        let start = Instant::now();
        // Either of them suffices: the witness for a removal, the copy for the whole set.
        let (first, second) = if round % 2 == 0 { (witness, other) } else { (other, witness) };
        node::start(&stage.lab, &first)?;
        switch::cut(&stage.lab, &first, false)?;
        let resumed = client.wait_after(start, PATIENCE)?;
        let back = revive(stage, &[second])?;
        stage.done(client);
        stage.rows_are_there()?;
        stage.report.row(&[("resumed_ms", ms(resumed - start)), ("protected_again_s", back.as_secs_f64())]);
    }
    Ok(())
}

/// All servers die at once and come back in every order.
pub fn total_restart(stage: &mut Stage) -> Result<()> {
    restarts(stage, |_, _| Ok(()))
}

/// The same on disks that lose, tear and reorder what was not flushed.
pub fn total_restart_faultdisk(stage: &mut Stage) -> Result<()> {
    restarts(stage, |stage, name| {
        let seed = stage.rng.bits();
        let toll = control::ask(&stage.lab.dir().join(format!("disk-{name}.ctl")), &format!("crash {seed}"))?;
        stage.report.say(&format!("disk of {name}: {toll}"));
        Ok(())
    })
}

fn restarts(stage: &mut Stage, after_death: impl Fn(&mut Stage, &str) -> Result<()>) -> Result<()> {
    for round in 1..=stage.rounds {
        let client = stage.client(&format!("total{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        stage.pause_up_to(Duration::from_secs(2));
        let mut order = stage.site.nodes().to_vec();
        for last in (1..order.len()).rev() {
            let chosen = usize::try_from(stage.rng.below(last as u64 + 1)).unwrap_or(0);
            order.swap(last, chosen);
        }
        for name in &order {
            node::kill(&stage.lab, name)?;
        }
        for name in &order {
            after_death(stage, name)?;
        }
        // Another order than that of the deaths.
        order.rotate_left(1);
        let start = Instant::now();
        for name in &order {
            node::start(&stage.lab, name)?;
            switch::cut(&stage.lab, name, false)?;
            stage.pause_up_to(Duration::from_secs(2));
        }
        let answered = client.wait_after(start, PATIENCE)?;
        let back = stage.site.wait_protected(PATIENCE)?;
        stage.done(client);
        stage.rows_are_there()?;
        stage.copies_are_equal()?;
        stage.report.say(&format!("returned in the order {}", order.join(", ")));
        stage.report.row(&[("answer_ms", ms(answered - start)), ("protected_again_s", back.as_secs_f64())]);
    }
    Ok(())
}

/// Puts a fault disk under everything that a node keeps; before its machine is switched on.
pub fn mount_fault_disk(lab: &Lab, name: &str) -> Result<()> {
    let (root, mount) = (lab.node_dir(name, "disk"), lab.node_dir(name, "lib"));
    for dir in [&root, &mount] {
        std::fs::create_dir_all(dir).at(dir.display())?;
    }
    let socket = lab.dir().join(format!("disk-{name}.ctl"));
    let words = [
        "faultdisk",
        "--root",
        &root.to_string_lossy(),
        "--mount",
        &mount.to_string_lossy(),
        "--control",
        &socket.to_string_lossy(),
    ];
    let mut child = node::helper(lab, &words, "disks.log")?;
    let end = Instant::now() + PATIENCE;
    let device = |path: &std::path::Path| {
        std::fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::dev(&meta))
    };
    while device(&mount).ok() == device(&root).ok() {
        if Instant::now() > end || !matches!(child.try_wait(), Ok(None)) {
            return refuse(format!("the fault disk of {name} does not come up; see disks.log"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
