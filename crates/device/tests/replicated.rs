//! Two volume processes that replicate over loopback with TLS, and an ideal voter.

#![allow(clippy::unwrap_used, reason = "a test may end where it fails")]

mod common;

use anshin_base::{GroupId, NodeId, ReplicaId, local::ReplicaPlace};
use anshin_device::control::{Request, VolumeStatus};
use anshin_link::{Authority, NodeKey};
use anshin_mirror::RoleName;
use common::{PATIENCE, Scratch, Volume, devices, fio_verified, installed, ledger::IdealVoter, must};
use std::{
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

struct Pair {
    voter: IdealVoter,
    volumes: [Volume; 2],
    _scratch: Scratch,
}

fn identity(authority: &Authority, node: u32, directory: &Path) {
    let key = NodeKey::generate().unwrap();
    let certificate =
        authority.issue(&key.request_pem().unwrap(), NodeId(node), &format!("n{node}")).unwrap();
    fs::create_dir_all(directory).unwrap();
    key.with_certificate(&certificate, authority.certificate_pem()).unwrap().save(directory).unwrap();
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Pair {
    /// Two replicas in sync, the first primary.
    fn new(name: &str, size: &str, arguments: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        let authority = Authority::create("site").unwrap();
        let socket = scratch.0.join("voter.sock");
        let mut places = Vec::new();
        let mut volumes = ["a", "b"].map(|node| Volume::create(&scratch.0.join(node), "data", size, &[]));
        for (volume, node) in volumes.iter_mut().zip(1..) {
            let identity_directory = volume.root.join("identity");
            identity(&authority, node, &identity_directory);
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let own = ["--listen", &address, "--identity", identity_directory.to_str().unwrap()];
            volume.set_arguments(&[&own[..], &["--voter", socket.to_str().unwrap()], arguments].concat());
            places.push(ReplicaPlace {
                replica: ReplicaId(volume.replica),
                node: NodeId(node),
                addresses: vec![address],
            });
        }
        let voter = IdealVoter::listen(&socket, places);
        let pair = Self { voter, volumes, _scratch: scratch };
        pair.begin()
    }

    fn begin(mut self) -> Self {
        self.volumes.iter_mut().for_each(Volume::start);
        let first = ReplicaId(self.volumes[0].replica);
        wait("the report of the first replica", || self.voter.knows(first));
        self.voter.create(GroupId(1), first);
        self.voter.promote(first);
        self.in_sync();
        self
    }

    fn in_sync(&self) {
        wait("both in the set", || self.voter.members() == 2);
    }

    fn equal(&self) {
        let [a, b] = self.volumes.each_ref().map(|volume| fs::read(volume.data()).unwrap());
        assert!(a == b, "both replicas are equal, byte for byte");
    }
}

fn serving(status: &VolumeStatus) -> bool {
    status.nbd.is_some() && status.replica.as_ref().is_some_and(|replica| replica.role == RoleName::Primary)
}

#[test]
fn a_verified_load_leaves_both_replicas_equal() {
    if !installed(&["fio"]) {
        return;
    }
    let pair = Pair::new("load", "128M", &["--no-device"]);
    let uri = format!("--uri={}", pair.volumes[0].nbd_uri());
    fio_verified(&["--ioengine=nbd", &uri], "128M", "64M");
    pair.volumes[0].ask(Request::Quiesce).unwrap();
    pair.equal();
    pair.volumes[0].ask(Request::Resume).unwrap();
}

#[test]
fn the_other_replica_takes_over_with_the_file_system_when_the_primary_is_killed() {
    if !devices("the_other_replica_takes_over_with_the_file_system_when_the_primary_is_killed")
        || !installed(&["mkfs.ext4", "fsck.ext4"])
    {
        return;
    }
    let mut pair = Pair::new("takeover", "128M", &[]);
    let device = pair.volumes[0].device();
    must("mkfs.ext4", &["-q", "-F", &device]);
    let mount = pair._scratch.0.join("mount");
    fs::create_dir(&mount).unwrap();
    let mount_text = mount.to_str().unwrap();
    must("mount", &[&device, mount_text]);
    fs::write(mount.join("kept"), "acknowledged").unwrap();
    fs::File::open(mount.join("kept")).unwrap().sync_all().unwrap();

    pair.volumes[0].kill();
    must("umount", &[mount_text]);
    let second = ReplicaId(pair.volumes[1].replica);
    pair.voter.promote(second);
    pair.volumes[1].until("the second replica serves", serving);
    let device = pair.volumes[1].device();
    must("mount", &[&device, mount_text]);
    assert_eq!(fs::read_to_string(mount.join("kept")).unwrap(), "acknowledged");
    must("umount", &[mount_text]);
    must("fsck.ext4", &["-fn", &device]);

    pair.volumes[0].start();
    pair.in_sync();
    let back = pair.volumes[0].status().unwrap();
    assert!(back.nbd.is_none(), "a secondary has no device");
    pair.volumes[1].ask(Request::Quiesce).unwrap();
    pair.equal();
    pair.volumes[1].ask(Request::Resume).unwrap();
}

#[test]
fn a_planned_hand_over_moves_the_role_and_the_device() {
    if !devices("a_planned_hand_over_moves_the_role_and_the_device") {
        return;
    }
    let pair = Pair::new("move", "64M", &[]);
    let device = pair.volumes[0].device();
    must(
        "dd",
        &["if=/dev/urandom", &format!("of={device}"), "bs=1M", "count=8", "oflag=direct", "status=none"],
    );
    pair.volumes[0].ask(Request::Demote).unwrap();
    assert!(!Path::new(&device).exists());
    let second = ReplicaId(pair.volumes[1].replica);
    pair.voter.promote(second);
    pair.volumes[1].device();
    pair.equal();
}

#[test]
fn a_frozen_primary_that_wakes_as_deposed_fails_what_it_held_and_returns_as_secondary() {
    if !devices("a_frozen_primary_that_wakes_as_deposed_fails_what_it_held_and_returns_as_secondary") {
        return;
    }
    let pair = Pair::new("deposed", "64M", &[]);
    let device = pair.volumes[0].device();
    pair.volumes[0].freeze(true);
    let second = ReplicaId(pair.volumes[1].replica);
    pair.voter.promote(second);
    pair.volumes[1].until("the second replica serves", serving);
    pair.volumes[0].freeze(false);
    let deposed = |status: &VolumeStatus| {
        status.replica.as_ref().is_some_and(|replica| replica.role == RoleName::Deposed)
    };
    pair.volumes[0].until("the first learns that it is deposed", deposed);

    // A write is held, neither acknowledged nor failed, until the programs are known to be gone.
    let held = std::thread::spawn({
        let device = device.clone();
        move || {
            let output = format!("of={device}");
            let arguments = ["if=/dev/zero", &output, "bs=4096", "count=1", "oflag=direct", "status=none"];
            std::process::Command::new("dd").args(arguments).output().unwrap().status.success()
        }
    });
    let under_way =
        |status: &VolumeStatus| status.fronts.iter().any(|front| front == "fuse file, 1 requests under way");
    pair.volumes[0].until("the write is held", under_way);
    assert!(!held.is_finished());
    pair.volumes[0].ask(Request::FailSuspended).unwrap();
    assert!(!held.join().unwrap(), "a write on a deposed primary ends with an error");
    pair.volumes[0].ask(Request::Teardown).unwrap();
    assert!(!Path::new(&device).exists());
    pair.in_sync();
    let status = pair.volumes[0].status().unwrap();
    assert_eq!(status.replica.unwrap().role, RoleName::Secondary);
    pair.volumes[1].ask(Request::Quiesce).unwrap();
    pair.equal();
    pair.volumes[1].ask(Request::Resume).unwrap();
}

#[test]
fn a_silent_secondary_is_removed_and_the_primary_goes_on() {
    if !installed(&["qemu-img"]) {
        return;
    }
    let pair = Pair::new("silent", "64M", &["--no-device"]);
    let uri = pair.volumes[0].nbd_uri();
    pair.volumes[1].freeze(true);
    must("qemu-img", &["bench", "-f", "raw", "-c", "200", "-d", "8", "-s", "4096", "-w", &uri]);
    wait("the removal of the silent member", || pair.voter.members() == 1);
    pair.volumes[1].freeze(false);
    pair.in_sync();
    pair.volumes[0].ask(Request::Quiesce).unwrap();
    pair.equal();
    pair.volumes[0].ask(Request::Resume).unwrap();
}

#[test]
fn an_idle_pair_sleeps() {
    let pair = Pair::new("idle", "64M", &["--no-device"]);
    pair.in_sync();
    let idle = Duration::from_secs(3);
    let before = pair.volumes.each_ref().map(Volume::processor_time);
    std::thread::sleep(idle);
    for (volume, before) in pair.volumes.iter().zip(before) {
        let used = volume.processor_time() - before;
        assert!(used < idle / 6, "{used:?} of {idle:?} spent on nothing");
    }
}

/// Prints what a synchronous second copy costs. Run by hand: the figures depend on the machine.
#[test]
#[ignore = "a measurement, not a check"]
fn measure_against_the_raw_file_and_against_one_copy() {
    let scratch = Scratch::new("bench");
    let raw = scratch.0.join("raw");
    fs::File::create(&raw).unwrap().set_len(512 << 20).unwrap();
    must(
        "dd",
        &[
            "if=/dev/zero",
            &format!("of={}", raw.display()),
            "bs=1M",
            "count=512",
            "conv=notrunc",
            "status=none",
        ],
    );
    common::measure("raw file", &raw.display().to_string());
    let mut alone = Volume::create(&scratch.0, "alone", "512M", &[]);
    alone.start();
    common::measure("one copy", &alone.device());
    alone.stop();
    let pair = Pair::new("bench-pair", "512M", &[]);
    common::measure("two copies", &pair.volumes[0].device());
}
