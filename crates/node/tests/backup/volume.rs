//! Volumes: read from a point while they are written to.

use crate::common::{Scratch, Volume, access, back_up, devices, job, must, restore};
use anshin_director::plan::{Source, VolumeForm};
use anshin_node::backup::{
    job::Subject,
    restore_job::{Conflict, Destination, Part, RestoreJob},
};
use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

fn source(form: VolumeForm) -> Source {
    Source::Volume { volume: "data".into(), form, exclude: vec!["*.tmp".into()] }
}

fn restore_job(snapshot: &str, to: &Path) -> RestoreJob {
    RestoreJob {
        vault: access(),
        snapshot: snapshot.into(),
        part: Part::default(),
        to: Destination::Directory { path: to.into() },
        conflict: Conflict::Refuse,
        verify: true,
        service: None,
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two files that always have the same number, written one after the other: at an instant they differ by one at most.
fn churn(directory: &Path, stop: &AtomicBool) {
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        for name in ["first", "second"] {
            let text = format!("{round}\n").repeat(5000);
            fs::write(directory.join("new"), text).unwrap();
            fs::rename(directory.join("new"), directory.join(name)).unwrap();
        }
    }
}

#[test]
fn a_mounted_volume_is_one_instant_in_the_vault_while_it_is_written_to() {
    if !devices("volume::a_mounted_volume_is_one_instant_in_the_vault_while_it_is_written_to") {
        return;
    }
    let scratch = Scratch::new("volume");
    let volume = Volume::mounted(&scratch, "data", "192M", &["mkfs.ext4", "-q", "-F"]);
    fs::create_dir(volume.mount.join("kept")).unwrap();
    for number in 0..200u32 {
        fs::write(volume.mount.join(format!("kept/{number}")), vec![number as u8; 20_000]).unwrap();
    }
    fs::write(volume.mount.join("left.tmp"), "out").unwrap();
    must("setfattr", &["-n", "user.colour", "-v", "red", volume.mount.join("kept/7").to_str().unwrap()]);
    // Files younger than two seconds are read again; these are to be believed by the cache.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| churn(&volume.mount, &stop));
        let _stop = Stop(&stop);
        let wanted = job(source(VolumeForm::Files), Subject::Volume(volume.subject()));
        let first = back_up(&scratch, &wanted);
        assert_eq!(first.warnings, 0, "{}", scratch.log());
        let second = back_up(&scratch, &job(source(VolumeForm::Files), Subject::Volume(volume.subject())));
        assert!(
            scratch.log().contains("unchanged=200"),
            "the cache knows the volume again: {}",
            scratch.log()
        );
        for (number, sealed) in [first, second].iter().enumerate() {
            let to = scratch.path(&format!("back-{number}"));
            let done = restore(&scratch, &restore_job(&sealed.snapshot.to_string(), &to)).unwrap();
            assert_eq!((done.verified, done.warnings.len()), (Some(true), 0), "{done:?}");
            let tree = to.join(volume.mount.strip_prefix("/").unwrap());
            let number = |name: &str| -> u64 {
                let text = fs::read_to_string(tree.join(name)).unwrap();
                let first = text.lines().next().unwrap();
                assert!(text.lines().all(|line| line == first), "a whole file");
                first.parse().unwrap()
            };
            let (one, two) = (number("first"), number("second"));
            assert!(one == two || one == two + 1, "one instant: {one} and {two}");
            assert!(!tree.join("left.tmp").exists(), "excluded");
            must(
                "diff",
                &["-r", volume.mount.join("kept").to_str().unwrap(), tree.join("kept").to_str().unwrap()],
            );
            let colour = must("getfattr", &["-n", "user.colour", tree.join("kept/7").to_str().unwrap()]);
            assert!(String::from_utf8_lossy(&colour.stdout).contains("red"));
        }
    });
    // Nothing is left of the points.
    let left = fs::read_dir(scratch.path("run-data")).unwrap().flatten();
    let left: Vec<_> =
        left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains('@')).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_image_of_a_volume_is_a_clean_file_system() {
    if !devices("volume::an_image_of_a_volume_is_a_clean_file_system") {
        return;
    }
    let scratch = Scratch::new("image");
    let volume = Volume::mounted(&scratch, "data", "96M", &["mkfs.ext4", "-q", "-F"]);
    fs::write(volume.mount.join("kept"), vec![9; 3 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let sealed = std::thread::scope(|scope| {
        scope.spawn(|| churn(&volume.mount, &stop));
        let _stop = Stop(&stop);
        back_up(&scratch, &job(source(VolumeForm::Image), Subject::Volume(volume.subject())))
    });
    let image = scratch.path("image");
    let mut wanted = restore_job(&sealed.snapshot.to_string(), &image);
    wanted.to = Destination::Device { path: image.clone() };
    wanted.verify = false;
    restore(&scratch, &wanted).unwrap();
    must("fsck.ext4", &["-fn", image.to_str().unwrap()]);
    let cat = Command::new("debugfs").args(["-R", "cat kept", image.to_str().unwrap()]).output().unwrap();
    assert!(cat.stdout == vec![9; 3 << 20]);
}
