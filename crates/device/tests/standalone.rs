//! One volume process with an ideal ledger in it, used by the tools that people use.

#![allow(clippy::unwrap_used, reason = "a test may end where it fails")]

mod common;

use anshin_device::control::Request;
use common::{Scratch, Volume, devices, fio_verified, installed, must};
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
};

fn random_file(path: &std::path::Path, bytes: u64) {
    let mut random = fs::File::open("/dev/urandom").unwrap().take(bytes);
    std::io::copy(&mut random, &mut fs::File::create(path).unwrap()).unwrap();
}

#[test]
fn qemu_and_libnbd_read_back_what_they_wrote() {
    if !installed(&["qemu-img", "nbdinfo", "nbdcopy"]) {
        return;
    }
    let scratch = Scratch::new("nbd");
    let mut volume = Volume::create(&scratch.0, "data", "64M", &["--no-device"]);
    volume.start();
    let uri = volume.nbd_uri();
    let (image, copy) = (scratch.0.join("image"), scratch.0.join("copy"));
    random_file(&image, 64 << 20);
    let (image_text, copy_text) = (image.to_str().unwrap(), copy.to_str().unwrap());

    let info = must("nbdinfo", &[&uri]);
    let info = String::from_utf8(info.stdout).unwrap();
    for line in
        ["export-size: 67108864", "can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true"]
    {
        assert!(info.contains(line), "{line} in {info}");
    }
    must("nbdinfo", &["--list", &uri]);
    must("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", image_text, &uri]);
    must("qemu-img", &["compare", "-f", "raw", "-F", "raw", image_text, &uri]);
    must(
        "qemu-img",
        &["bench", "-f", "raw", "-c", "2000", "-d", "16", "-s", "4096", "-w", "--flush-interval=100", &uri],
    );
    must("nbdcopy", &[image_text, &uri]);
    must("nbdcopy", &[&uri, copy_text]);
    assert!(fs::read(&image).unwrap() == fs::read(&copy).unwrap(), "nbdcopy gives back what it wrote");
    volume.stop();
    assert!(
        fs::read(&image).unwrap() == fs::read(volume.data()).unwrap(),
        "the file is the volume, byte for byte"
    );
}

#[test]
fn a_fio_load_over_nbd_is_verified_at_depth_16() {
    if !installed(&["fio"]) {
        return;
    }
    let scratch = Scratch::new("fio-nbd");
    let mut volume = Volume::create(&scratch.0, "data", "256M", &["--no-device"]);
    volume.start();
    let uri = format!("--uri={}", volume.nbd_uri());
    fio_verified(&["--ioengine=nbd", &uri], "256M", "128M");
    volume.stop();
}

#[test]
fn the_block_device_carries_a_verified_load_and_a_file_system() {
    if !devices("the_block_device_carries_a_verified_load_and_a_file_system")
        || !installed(&["fio", "mkfs.ext4", "fsck.ext4"])
    {
        return;
    }
    let scratch = Scratch::new("loop");
    let mut volume = Volume::create(&scratch.0, "data", "256M", &[]);
    volume.start();
    let device = volume.device();
    let filename = format!("--filename={device}");
    fio_verified(&["--ioengine=libaio", "--direct=1", &filename], "256M", "128M");
    must("mkfs.ext4", &["-q", "-F", &device]);
    let mount = scratch.0.join("mount");
    fs::create_dir(&mount).unwrap();
    let mount_text = mount.to_str().unwrap();
    must("mount", &[&device, mount_text]);
    random_file(&mount.join("file"), 10 << 20);
    fs::File::open(mount.join("file")).unwrap().sync_all().unwrap();
    let busy = volume.ask(Request::Teardown).unwrap_err();
    assert_eq!(busy.code, "device-busy", "a mounted device is not destroyed");
    must("umount", &[mount_text]);
    must("fsck.ext4", &["-fn", &device]);
    volume.ask(Request::Teardown).unwrap();
    assert!(!std::path::Path::new(&device).exists(), "the device is gone with its name");
    volume.stop();
}

#[test]
fn a_file_system_survives_a_killed_process_and_the_old_device_goes_away() {
    if !devices("a_file_system_survives_a_killed_process_and_the_old_device_goes_away")
        || !installed(&["mkfs.ext4", "fsck.ext4"])
    {
        return;
    }
    let scratch = Scratch::new("crash");
    let mut volume = Volume::create(&scratch.0, "data", "128M", &[]);
    volume.start();
    let device = volume.device();
    must("mkfs.ext4", &["-q", "-F", &device]);
    let mount = scratch.0.join("mount");
    fs::create_dir(&mount).unwrap();
    let mount_text = mount.to_str().unwrap();
    for round in 0..3 {
        must("mount", &[&volume.device(), mount_text]);
        let kept = mount.join(format!("kept-{round}"));
        random_file(&kept, 1 << 20);
        fs::File::open(&kept).unwrap().sync_all().unwrap();
        let content = fs::read(&kept).unwrap();
        random_file(&mount.join("lost"), 4 << 20);
        volume.kill();
        volume.start();
        must("umount", &[mount_text]);
        must("mount", &[&volume.device(), mount_text]);
        assert!(fs::read(&kept).unwrap() == content, "what was synced is there after the crash");
        must("umount", &[mount_text]);
        must("fsck.ext4", &["-fn", &volume.device()]);
    }
    volume.stop();
}

#[test]
fn trimmed_blocks_read_as_zeroes_and_keep_their_space() {
    if !installed(&["qemu-io"]) {
        return;
    }
    let scratch = Scratch::new("trim");
    let mut volume = Volume::create(&scratch.0, "data", "64M", &["--no-device"]);
    volume.start();
    let uri = volume.nbd_uri();
    must("qemu-io", &["-f", "raw", "-c", "write -P 7 0 48M", "-c", "discard 8M 16M", "-c", "flush", &uri]);
    must(
        "qemu-io",
        &["-f", "raw", "-c", "read -P 7 0 8M", "-c", "read -P 0 8M 16M", "-c", "read -P 7 24M 24M", &uri],
    );
    volume.stop();
    let found = fs::metadata(volume.data()).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&found);
    assert!(blocks * 512 >= 64 << 20, "a later write into trimmed blocks cannot meet a full disk: {blocks}");
}

#[test]
fn a_second_process_of_the_same_replica_is_refused() {
    let scratch = Scratch::new("twice");
    let mut volume = Volume::create(&scratch.0, "data", "64M", &["--no-device"]);
    volume.start();
    let options = anshin_device::Options {
        name: "data".into(),
        directory: volume.root.join("replica"),
        run: scratch.0.join("other-run"),
        devices: scratch.0.join("other-run/dev"),
        network: None,
        ledger: anshin_device::Ledger::Standalone,
        block_device: false,
        protect_memory: false,
        times: anshin_device::Times::default(),
        hot_extents: anshin_device::HOT_EXTENTS,
    };
    assert_eq!(anshin_device::run(options).unwrap_err().code, "volume-in-use");
    volume.stop();
}

#[test]
fn garbage_on_its_sockets_is_refused_and_nothing_stops() {
    let scratch = Scratch::new("garbage");
    let mut volume = Volume::create(&scratch.0, "data", "64M", &["--no-device"]);
    volume.start();
    volume.nbd_uri();
    let garbage: Vec<u8> = (0..9000u32).map(|at| ((at * 7919) >> 3) as u8).collect();
    for socket in ["volume-data.nbd", "volume-data.ctl"] {
        for length in [1, 18, 100, garbage.len()] {
            let mut stream = UnixStream::connect(volume.run_directory().join(socket)).unwrap();
            let _ = stream.write_all(&garbage[..length]);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    let status = volume.status().expect("it still answers");
    assert_eq!(status.bytes, 64 << 20);
    assert!(volume.log().contains("closing an NBD connection"), "{}", volume.log());
    volume.stop();
}
