//! Machines of the lab: reachable, cut, killed and started, and gone without a trace. Needs root and namespaces.

#![allow(clippy::unwrap_used)]

use anshin_e2e::lab::process;
use anshin_e2e::lab::state::MARK;
use std::path::PathBuf;
use std::process::{Command, Output};

struct Machines(PathBuf);

fn lab(dir: &PathBuf, words: &[&str]) -> Output {
    let (command, rest) = words.split_first().unwrap();
    Command::new(env!("CARGO_BIN_EXE_anshin-lab"))
        .arg(command)
        .arg("--dir")
        .arg(dir)
        .args(rest)
        .output()
        .unwrap()
}

impl Machines {
    fn up(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let machines =
            Self(std::env::temp_dir().join(format!("anshin-lab-test-{name}-{}", std::process::id())));
        machines.must(&["up", "--nodes", "a,b,c"]);
        Some(machines)
    }

    fn must(&self, words: &[&str]) -> String {
        let output = lab(&self.0, words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn reaches(&self, from: &str, to: u8) -> bool {
        let address = format!("10.77.0.{to}");
        lab(&self.0, &["exec", from, "--", "ping", "-c4", "-i0.4", "-W1", &address]).status.success()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        lab(&self.0, &["down"]);
    }
}

#[test]
fn machines_see_each_other_their_own_disks_and_nothing_of_the_host() {
    let Some(machines) = Machines::up("own") else { return };
    assert!(machines.reaches("a", 2) && machines.reaches("c", 1));
    machines.must(&["exec", "a", "--", "sh", "-c", "echo x > /var/lib/anshin/f; echo y > /run/f"]);
    assert!(!lab(&machines.0, &["exec", "b", "--", "test", "-e", "/var/lib/anshin/f"]).status.success());
    assert_eq!(machines.must(&["exec", "a", "--", "hostname"]).trim(), "a");
    assert_eq!(machines.must(&["exec", "a", "--", "sh", "-c", "ps -eo pid= | head -1"]).trim(), "1");
    machines.must(&["kill", "a"]);
    machines.must(&["start", "a"]);
    machines.must(&["exec", "a", "--", "sh", "-c", "test -e /var/lib/anshin/f && ! test -e /run/f"]);
}

#[test]
fn cuts_work_as_named_and_healing_undoes_them() {
    let Some(machines) = Machines::up("cuts") else { return };
    machines.must(&["cut", "a"]);
    assert!(!machines.reaches("b", 1));
    machines.must(&["heal", "a"]);
    assert!(machines.reaches("b", 1));
    machines.must(&["cut-pair", "a", "b"]);
    assert!(!machines.reaches("a", 2) && machines.reaches("a", 3) && machines.reaches("b", 3));
    machines.must(&["heal"]);
    machines.must(&["cut", "--silent", "out", "a"]);
    assert!(!machines.reaches("a", 2) && machines.reaches("b", 3));
    let listening = "timeout 5 tcpdump -c1 -nn -i eth0 src 10.77.0.2 2>/dev/null | grep -q 10.77.0.1";
    let (dir, ping) = (machines.0.clone(), ["exec", "b", "--", "ping", "-c3", "-i.2", "-W1", "10.77.0.1"]);
    let pinging = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        lab(&dir, &ping)
    });
    machines.must(&["exec", "a", "--", "sh", "-c", listening]);
    assert!(!pinging.join().unwrap().status.success(), "the answers vanish");
    machines.must(&["heal"]);
    assert!(machines.reaches("a", 2));
}

#[test]
fn a_killed_machine_leaves_no_loop_device_and_a_removed_lab_nothing_at_all() {
    let Some(machines) = Machines::up("loops") else { return };
    let program = env!("CARGO_BIN_EXE_anshin-lab");
    // A file system on a loop device on a FUSE file, as a replicated volume is, with a writer on it.
    let script = format!(
        "mkdir -p /srv/root /srv/mnt /srv/fs; cp {program} /run/lab-program
         /run/lab-program faultdisk --root /srv/root --mount /srv/mnt --control /run/ctl >/dev/null 2>&1 &
         while ! mountpoint -q /srv/mnt; do :; done
         truncate -s 32M /srv/mnt/image; mkfs.ext4 -q /srv/mnt/image
         device=$(losetup -f --show --direct-io=on /srv/mnt/image) && mount $device /srv/fs
         (while :; do dd if=/dev/zero of=/srv/fs/f bs=4k count=64 conv=fsync 2>/dev/null; done) >/dev/null 2>&1 &
         echo $device"
    );
    let device = machines.must(&["exec", "a", "--", "sh", "-c", &script]).trim().to_owned();
    let backing = PathBuf::from(device.replace("/dev/", "/sys/block/")).join("loop/backing_file");
    assert!(backing.exists(), "{device}");
    machines.must(&["kill", "a"]);
    assert!(!backing.exists(), "the loop device is free again");
    let dir = machines.0.clone();
    machines.must(&["down"]);
    machines.must(&["down"]);
    assert!(!dir.join("lab.json").exists() && !dir.join("nodes").exists());
    let mark = dir.to_string_lossy().into_owned();
    assert!(!process::marked(MARK).iter().any(|(_, value)| *value == mark));
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&*mark));
}
