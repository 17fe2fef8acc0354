//! Points of a real volume process: read over NBD and mounted from their device while the volume is written to.

#![allow(clippy::unwrap_used, reason = "a test may end where it fails")]

mod common;

use anshin_device::control::{Client, PointStatus, Reply, Request};
use common::{PATIENCE, Scratch, Volume, devices, fio_verified, installed, must};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

fn open(client: &mut Client, limit_bytes: u64, freeze: bool) -> Result<PointStatus, anshin_base::Problem> {
    match client.ask(Request::PointOpen { limit_bytes, freeze })? {
        Reply::Point { point } => Ok(*point),
        other => panic!("{other:?}"),
    }
}

fn gone(path: &Path) {
    let end = Instant::now() + PATIENCE;
    while path.exists() {
        assert!(Instant::now() < end, "{} stays", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_point_is_read_over_nbd_while_a_verified_load_goes_on() {
    if !installed(&["fio", "qemu-io", "nbdcopy", "nbdinfo"]) {
        return;
    }
    let scratch = Scratch::new("point-nbd");
    let mut volume = Volume::create(&scratch.0, "data", "64M", &["--no-device"]);
    volume.start();
    let uri = volume.nbd_uri();
    must("qemu-io", &["-f", "raw", "-c", "write -P 7 0 40M", "-c", "discard 8M 8M", "-c", "flush", &uri]);
    let before = scratch.0.join("before");
    must("nbdcopy", &[&uri, before.to_str().unwrap()]);
    let mut client = volume.client().unwrap();
    let point = open(&mut client, 64 << 20, false).unwrap();
    let point_uri = format!("nbd+unix:///?socket={}", point.nbd.display());
    let info = String::from_utf8(must("nbdinfo", &[&point_uri]).stdout).unwrap();
    assert!(info.contains("is_read_only: true"), "{info}");
    std::thread::scope(|scope| {
        let load = format!("--uri={uri}");
        let load = scope.spawn(move || fio_verified(&["--ioengine=nbd", &load], "64M", "96M"));
        let mut rounds = 0;
        while !load.is_finished() || rounds == 0 {
            let copy = scratch.0.join("copy");
            must("nbdcopy", &[&point_uri, copy.to_str().unwrap()]);
            assert!(fs::read(&before).unwrap() == fs::read(&copy).unwrap(), "the point stays as it was");
            rounds += 1;
        }
    });
    let copied = volume.status().unwrap().points[0].copied_bytes;
    assert!(copied > 0 && copied <= 64 << 20, "{copied}");
    must("qemu-io", &["-r", "-f", "raw", "-c", "read -P 7 0 8M", "-c", "read -P 0 8M 8M", &point_uri]);
    client.ask(Request::PointClose { point: point.point }).unwrap();
    gone(&point.nbd);
    assert!(volume.status().unwrap().points.is_empty());
    volume.stop();
}

#[test]
fn a_point_that_outgrows_its_bound_breaks_and_the_volume_goes_on() {
    if !installed(&["qemu-io"]) {
        return;
    }
    let scratch = Scratch::new("point-bound");
    let mut volume = Volume::create(&scratch.0, "data", "64M", &["--no-device"]);
    volume.start();
    let uri = volume.nbd_uri();
    let mut client = volume.client().unwrap();
    let point = open(&mut client, 4 << 20, false).unwrap();
    must("qemu-io", &["-f", "raw", "-c", "write -P 9 0 32M", "-c", "flush", "-c", "read -P 9 0 32M", &uri]);
    let Reply::Point { point: now } = client.ask(Request::PointStatus { point: point.point }).unwrap() else {
        panic!("no status")
    };
    assert!(now.broken.unwrap().contains("changed while it was open"));
    let read = format!("nbd+unix:///?socket={}", point.nbd.display());
    let output =
        std::process::Command::new("qemu-io").args(["-r", "-f", "raw", "-c", "read 0 1M", &read]).output();
    assert!(!output.unwrap().status.success(), "a broken point gives errors");
    // Its owner hangs up; later points work.
    drop(client);
    gone(&point.nbd);
    let mut client = volume.client().unwrap();
    open(&mut client, 64 << 20, false).unwrap();
    assert_eq!(open(&mut client, u64::MAX, false).unwrap().limit_bytes, 64 << 20);
    volume.stop();
}

/// Stops the load also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Appends and renames files until told to stop.
fn churn(directory: &Path, stop: &AtomicBool) {
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let path = directory.join(format!("file-{}", round % 50));
        fs::write(path.with_extension("new"), vec![round as u8; 40_000 + (round % 7) as usize * 9000])
            .unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        if round.is_multiple_of(16) {
            fs::File::open(&path).unwrap().sync_all().unwrap();
        }
        round += 1;
    }
}

#[test]
fn a_frozen_point_is_a_clean_file_system_and_vanishes_with_its_owner() {
    if !devices("a_frozen_point_is_a_clean_file_system_and_vanishes_with_its_owner")
        || !installed(&["mkfs.ext4", "fsck.ext4", "mkfs.xfs"])
    {
        return;
    }
    let scratch = Scratch::new("point-mount");
    for (kind, size, options) in [("ext4", "256M", "ro,noload"), ("xfs", "320M", "ro,norecovery,nouuid")] {
        let mut volume = Volume::create(&scratch.0, kind, size, &[]);
        volume.start();
        let device = volume.device();
        let force = if kind == "ext4" { "-F" } else { "-f" };
        must(&format!("mkfs.{kind}"), &["-q", force, &device]);
        let (mount, seen) = (scratch.0.join("mount"), scratch.0.join("seen"));
        fs::create_dir_all(&mount).unwrap();
        fs::create_dir_all(&seen).unwrap();
        must("mount", &[&device, mount.to_str().unwrap()]);
        fs::write(mount.join("kept"), vec![7; 3 << 20]).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| churn(&mount, &stop));
            let _stop = Stop(&stop);
            std::thread::sleep(Duration::from_millis(500));
            for _ in 0..2 {
                let mut client = volume.client().unwrap();
                let point = open(&mut client, 128 << 20, true).unwrap();
                assert!(point.frozen_ms.is_some(), "{point:?}");
                let node = point.device.clone().unwrap();
                if kind == "ext4" {
                    must("fsck.ext4", &["-fn", node.to_str().unwrap()]);
                }
                must("mount", &["-o", options, node.to_str().unwrap(), seen.to_str().unwrap()]);
                assert!(fs::read(seen.join("kept")).unwrap() == vec![7; 3 << 20]);
                let sums = || {
                    must(
                        "sh",
                        &[
                            "-c",
                            &format!(
                                "cd {} && find . -type f -print0 | sort -z | xargs -0 sha256sum",
                                seen.display()
                            ),
                        ],
                    )
                    .stdout
                };
                let first = sums();
                std::thread::sleep(Duration::from_millis(300));
                must("sh", &["-c", "echo 2 > /proc/sys/vm/drop_caches"]);
                assert_eq!(first, sums(), "what is read twice is the same");
                assert!(fs::write(seen.join("new"), "x").is_err(), "nobody writes to a point");
                must("umount", &[seen.to_str().unwrap()]);
                drop(client);
                gone(&node);
                gone(&volume.run_directory().join(format!("fuse-{kind}@{}", point.point)));
            }
        });
        must("umount", &[mount.to_str().unwrap()]);
        if kind == "ext4" {
            must("fsck.ext4", &["-fn", &device]);
        }
        volume.stop();
    }
}

#[test]
fn a_hand_over_does_not_wait_for_a_point_that_is_mounted() {
    if !devices("a_hand_over_does_not_wait_for_a_point_that_is_mounted") || !installed(&["mkfs.ext4"]) {
        return;
    }
    let scratch = Scratch::new("point-teardown");
    let mut volume = Volume::create(&scratch.0, "data", "64M", &[]);
    volume.start();
    must("mkfs.ext4", &["-q", "-F", &volume.device()]);
    let mut client = volume.client().unwrap();
    let point = open(&mut client, 16 << 20, false).unwrap();
    assert_eq!(point.frozen_ms, None, "nothing is mounted that could be frozen");
    let node = point.device.unwrap();
    let seen = scratch.0.join("seen");
    fs::create_dir(&seen).unwrap();
    must("mount", &["-o", "ro", node.to_str().unwrap(), seen.to_str().unwrap()]);
    volume.ask(Request::Teardown).unwrap();
    let why = client.ask(Request::PointStatus { point: point.point }).unwrap_err();
    assert_eq!(why.code, "point-broken");
    assert!(why.message.contains("given up"), "{why}");
    must("umount", &[seen.to_str().unwrap()]);
    volume.stop();
}
