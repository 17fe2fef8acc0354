//! The real program under hardship: killed, on a full file system, with flipped bits in its vault.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may end where it fails")]

mod common;

use anshin_base::testing::{Namespace, Rows, in_namespaces, size};
use common::{Machine, text};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What an outside tool sees of the contents and names below a directory.
fn digest(top: &Path) -> String {
    sh(&format!("cd {} && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum", top.display()))
}

/// Writes `big` files of 9 MB and many small ones; a few of each are new at every call.
fn change(data: &Path, numbers: &mut Numbers, big: u64) {
    for n in 0..big {
        let path = data.join(format!("big-{n}"));
        if !path.exists() || numbers.below(3) == 0 {
            fs::write(path, numbers.bytes(9_000_000)).unwrap();
        }
    }
    for n in 0..400 {
        let directory = data.join(format!("small/{}", n % 20));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(format!("{n}"));
        if !path.exists() || numbers.below(4) == 0 {
            let length = numbers.below(20_000);
            fs::write(path, numbers.bytes(length)).unwrap();
        }
    }
}

/// The vault is as it was written, and every snapshot that was ever sealed is there.
fn is_whole(machine: &Machine, sealed: &BTreeMap<String, String>, context: &str) -> Vec<String> {
    let verified = machine.run(&["vault", "verify", "--keys", "--json"]);
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{context}: {}{}",
        text(&verified.stdout),
        text(&verified.stderr)
    );
    let found: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(
        found["good"] == true && found["findings"].as_array().is_none_or(Vec::is_empty),
        "{context}: {found}"
    );
    let list = machine.json(&["snapshots", "list"]);
    let there: Vec<String> =
        list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    for id in sealed.keys() {
        assert!(there.contains(id), "{context}: snapshot {id} is gone");
    }
    there
}

fn comes_back(machine: &Machine, id: &str, expected: &str, context: &str) {
    let back = machine.root.join("back");
    let _ = fs::remove_dir_all(&back);
    machine.good(&["restore", id, "--to", back.to_str().unwrap()]);
    let data = PathBuf::from(format!("{}{}", back.display(), machine.path("data")));
    assert_eq!(digest(&data), expected, "{context}: snapshot {id}");
    fs::remove_dir_all(&back).unwrap();
}

fn sealed_by(
    machine: &Machine,
    sealed: &mut BTreeMap<String, String>,
    digest: &str,
    context: &str,
) -> String {
    let output = machine.run(&["backup", &machine.path("data"), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{context}: {}{}", text(&output.stdout), text(&output.stderr));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = done["snapshot"].as_str().unwrap().to_owned();
    sealed.insert(id.clone(), digest.to_owned());
    id
}

#[test]
fn i12_a_backup_killed_at_random_points_loses_nothing_that_was_sealed() {
    let mut rows = Rows::open("vault-kill");
    let wanted = size(6, 50);
    if rows.has("all") {
        return;
    }
    let machine = Machine::new("killed");
    machine.init();
    let (data, mut numbers, mut sealed) = (machine.root.join("data"), Numbers(1), BTreeMap::new());
    change(&data, &mut numbers, 4);
    let clock = Instant::now();
    sealed_by(&machine, &mut sealed, &digest(&data), "the first backup");
    let whole = clock.elapsed();
    let (mut killed, mut ended, mut sealed_when_killed) = (0, 0, 0);
    while killed < wanted {
        change(&data, &mut numbers, 4);
        let content = digest(&data);
        let mut command = machine.command(&["backup", &machine.path("data"), "--json"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let point = numbers.below(whole.as_micros() as u64 * 3 / 4);
        std::thread::sleep(Duration::from_micros(point));
        if child.try_wait().unwrap().is_some() {
            ended += 1;
            assert!(ended < 20 * wanted, "backups end before they can be killed");
        } else {
            killed += 1;
        }
        let _ = child.kill();
        child.wait().unwrap();
        let context = format!("kill {killed} of {wanted}, after {point} µs");
        for id in is_whole(&machine, &sealed, &context) {
            // Sealed by the backup of this round, which ended or died behind its last step.
            sealed_when_killed += usize::from(!sealed.contains_key(&id));
            sealed.entry(id).or_insert_with(|| content.clone());
        }
        let newest = sealed_by(&machine, &mut sealed, &content, &context);
        comes_back(&machine, &newest, &content, &context);
        let any = sealed.keys().nth(numbers.below(sealed.len() as u64) as usize).unwrap().clone();
        comes_back(&machine, &any, &sealed[&any], &context);
    }
    for (id, content) in &sealed {
        comes_back(&machine, id, content, "at the end");
    }
    let figures = format!(
        "{killed} backups killed ({ended} ended before, {sealed_when_killed} of both had sealed), {} snapshots restored byte for byte",
        sealed.len()
    );
    rows.add("all", &figures);
}

/// A small ext4 in a file, mounted beneath the machine's directory.
struct Small {
    at: PathBuf,
}

impl Small {
    fn new(machine: &Machine, mib: u64) -> Self {
        let (image, at) = (machine.root.join("small.img"), machine.root.join("small"));
        fs::create_dir_all(&at).unwrap();
        let (shown, image) = (at.display(), image.display());
        sh(&format!(
            "truncate -s {mib}M {image} && mkfs.ext4 -q -F -m 0 {image} && mount -o loop {image} {shown}"
        ));
        Self { at }
    }

    fn free(&self) -> u64 {
        let text = sh(&format!("sync -f {0}; stat -f -c '%a %S' {0}", self.at.display()));
        let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        numbers[0] * numbers[1]
    }

    /// Fills it but for about `room` bytes.
    fn leave(&self, room: u64) {
        let filler = self.at.join("filler");
        let take = self.free().saturating_sub(room) / 4096 * 4096;
        if take > 0 {
            sh(&format!("fallocate -l {take} {}", filler.display()));
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

#[test]
fn i12_a_full_file_system_at_any_point_of_a_backup_loses_nothing() {
    let mut rows = Rows::open("vault-full");
    let test = "i12_a_full_file_system_at_any_point_of_a_backup_loses_nothing";
    if rows.has("all") || !in_namespaces(test, &[Namespace::Mount]) {
        return;
    }
    let points = size(5, 20);
    let machine = Machine::new("full");
    let small = Small::new(&machine, 384);
    let (vault, data) = (machine.path("small/vault"), machine.root.join("data"));
    machine.good(&["vault", "init", &vault, "--yes"]);
    let mut numbers = Numbers(2);
    change(&data, &mut numbers, 1);
    let (mut sealed, before) = (BTreeMap::new(), digest(&data));
    let first = sealed_by(&machine, &mut sealed, &before, "the first backup");
    // The state that each point begins with.
    sh(&format!(
        "cd {} && cp -a machine machine.kept && cp -a small/vault vault.kept",
        machine.root.display()
    ));
    change(&data, &mut numbers, size(6, 12));
    let after = digest(&data);
    let free = small.free();
    sealed_by(&machine, &mut BTreeMap::new(), &after, "with room");
    let needed = free - small.free();
    let mut refused = 0;
    for point in 0..points {
        sh(&format!(
            "cd {} && rm -rf machine small/vault && cp -a machine.kept machine && cp -a vault.kept small/vault",
            machine.root.display()
        ));
        // Two thirds of the points anywhere, the others close to what is needed: trees, index and snapshot come last.
        let room = match point % 3 {
            2 => needed.saturating_sub((numbers.below(400)) * 1024),
            _ => needed * (2 * point + 1) / (2 * points),
        };
        let context = format!("point {point}: room for {room} of {needed} bytes");
        small.leave(room);
        let output = machine.run(&["backup", &machine.path("data"), "--json"]);
        let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
        match output.status.code() {
            Some(2) => {
                refused += 1;
                assert!(told.contains("vault-full") && told.contains("hint"), "{context}: {told}");
            }
            Some(0) => {}
            other => panic!("{context}: ended with {other:?}: {told}"),
        }
        // Still full: what is there can be verified and restored.
        is_whole(&machine, &sealed, &context);
        comes_back(&machine, &first, &before, &context);
        let _ = fs::remove_file(small.at.join("filler"));
        let mut all = sealed.clone();
        let next = sealed_by(&machine, &mut all, &after, &context);
        is_whole(&machine, &all, &context);
        comes_back(&machine, &next, &after, &context);
        comes_back(&machine, &first, &before, &context);
    }
    assert!(refused * 4 >= points * 3, "only {refused} of {points} found the file system full");
    rows.add("all", &format!("{refused} of {points} backups met a full file system ({needed} bytes needed), both snapshots restored each time"));
}

fn objects(vault: &Path) -> Vec<String> {
    let list = sh(&format!("cd {} && find . -type f | sort", vault.display()));
    list.lines().map(|line| line.trim_start_matches("./").to_owned()).collect()
}

#[test]
fn i14_a_flipped_bit_in_any_object_of_a_vault_is_named_by_verify() {
    let mut rows = Rows::open("vault-flip");
    if rows.has("all") {
        return;
    }
    let machine = Machine::new("flip");
    machine.init();
    for n in 0..3 {
        fs::write(machine.root.join("data/one"), format!("content {n}")).unwrap();
        let done = machine.backup();
        if n == 0 {
            machine.good(&["forget", done["snapshot"].as_str().unwrap()]);
        }
    }
    let (vault, per_object) = (machine.root.join("vault"), size(2, 60));
    sh(&format!("cp -a {0} {0}.kept", vault.display()));
    let (mut numbers, mut flips) = (Numbers(3), 0);
    for name in objects(&vault) {
        let path = vault.join(&name);
        let whole = fs::read(&path).unwrap();
        for n in 0..per_object {
            // First, last, and any other byte.
            let at = match n {
                0 => 0,
                1 => whole.len() - 1,
                _ => numbers.below(whole.len() as u64) as usize,
            };
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << numbers.below(8);
            replace(&path, &bytes);
            let output = machine.run(&["vault", "verify"]);
            let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
            let own = name.rsplit('/').next().unwrap().split('.').next().unwrap();
            let named = told.contains(own)
                || (name.starts_with("keys/") && told.contains("key file"))
                || (name.starts_with("vault") && told.contains("descriptor"))
                || (name.starts_with("index/") && told.contains("index"));
            assert!(named, "byte {at} of {name}: {:?} {told}", output.status.code());
            let repaired = name.starts_with("index/") || name.starts_with("damaged/");
            assert!(output.status.code() == Some(1) || repaired, "byte {at} of {name}: {told}");
            // Verification puts things right and on record: each flip begins with the vault as it was.
            sh(&format!("rm -rf {0} && cp -a {0}.kept {0}", vault.display()));
            flips += 1;
        }
    }
    rows.add("all", &format!("{flips} flipped bits named, {per_object} in each object"));
}

fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}
