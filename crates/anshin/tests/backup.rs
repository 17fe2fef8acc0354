//! Backup and restore as a user does it, with the real program and no site: make a vault, back up, look, lose, bring back.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod common;

use common::{Machine, mode, text};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

#[test]
fn what_was_deleted_comes_back() {
    let machine = Machine::new("story");
    let made = machine.init();
    assert_eq!(made["recovery_key"].as_str().unwrap().len(), 47, "{made}");
    let first = machine.backup();
    assert_eq!((first["files"].as_u64(), first["issue_count"].as_u64()), (Some(2), Some(0)), "{first}");
    let second = machine.backup();
    assert!(second["new_bytes"].as_u64().unwrap() < 4096, "{second}");

    // Something else is the newest; with a path `latest` is the newest that has it.
    fs::write(machine.root.join("other"), "other").unwrap();
    machine.json(&["backup", &machine.path("other")]);
    fs::remove_file(machine.root.join("data/deep/two")).unwrap();
    let path = machine.path("data/deep/two");
    let restored = machine.json(&["restore", "latest", &path, "--in-place", "--verify"]);
    assert_eq!((restored["files"].as_u64(), restored["verified"].as_u64()), (Some(1), Some(1)), "{restored}");
    assert_eq!(fs::read(machine.root.join("data/deep/two")).unwrap(), vec![7; 300_000]);

    // Everything, elsewhere: with its whole path below the directory.
    let elsewhere = machine.path("elsewhere");
    machine.good(&["restore", first["snapshot"].as_str().unwrap(), "--to", &elsewhere, "--verify"]);
    let back = PathBuf::from(format!("{elsewhere}{}", machine.path("data")));
    assert_eq!(fs::read(back.join("one")).unwrap(), b"first");
    assert_eq!(fs::read_link(back.join("link")).unwrap(), Path::new("one"));
    assert!(!back.join("deep/three.tmp").exists());
    let (one, other) =
        (fs::metadata(machine.root.join("data/one")).unwrap(), fs::metadata(back.join("one")).unwrap());
    assert_eq!(
        (one.mtime(), one.mtime_nsec(), one.mode()),
        (other.mtime(), other.mtime_nsec(), other.mode())
    );

    // A pattern.
    let some = machine.path("some");
    machine.good(&["restore", second["snapshot"].as_str().unwrap(), "**/on*", "--to", &some]);
    assert!(PathBuf::from(format!("{some}{}", machine.path("data/one"))).exists());
    assert!(!PathBuf::from(format!("{some}{}", machine.path("data/link"))).exists());
}

#[test]
fn secrets_are_private_from_birth() {
    let machine = Machine::new("private");
    let recovery = machine.path("recovery");
    machine.good(&["vault", "init", &machine.path("vault"), "--recovery-key-file", &recovery]);
    assert_eq!(mode(Path::new(&recovery)), 0o600);
    let home = machine.root.join("machine");
    for file in ["etc/anshin/vaults/main.toml", "var/lib/anshin/keys/machine.key"] {
        assert_eq!(mode(&home.join(file)), 0o600, "{file}");
    }
    for directory in ["etc/anshin/vaults", "var/lib/anshin/keys"] {
        assert_eq!(mode(&home.join(directory)), 0o700, "{directory}");
    }
}

#[test]
fn nothing_is_made_before_the_recovery_key_is_in_somebodys_hands() {
    let machine = Machine::new("hands");
    let vault = machine.path("vault");
    let told = machine.bad(3, &["vault", "init", &vault]);
    assert!(told.contains("hint: ") && told.contains("--recovery-key-file"), "{told}");
    fs::write(machine.root.join("there"), "").unwrap();
    machine.bad(2, &["vault", "init", &vault, "--recovery-key-file", &machine.path("there")]);
    assert!(!Path::new(&vault).join("vault").exists());
    machine.init();
    // A second one of the same name, and a second one in the same place.
    machine.bad(3, &["vault", "init", &machine.path("vault2"), "--yes"]);
    let told = machine.bad(3, &["vault", "init", &vault, "--name", "other", "--yes"]);
    assert!(told.contains("--attach"), "{told}");
    let stranger = Machine::new("attach");
    let attached = stranger.json(&["vault", "init", &vault, "--attach", "--yes"]);
    assert_eq!(attached["place"].as_str().unwrap(), vault);
    stranger.backup();
    let status = stranger.json(&["vault", "status"]);
    assert_eq!(status["domains"].as_array().unwrap().len(), 2);
    assert_eq!(stranger.json(&["snapshots", "list"]).as_array().unwrap().len(), 1);
    assert_eq!(machine.json(&["snapshots", "list"]).as_array().unwrap().len(), 0);
}

#[test]
fn a_lost_key_is_told_at_once_and_the_recovery_key_opens_everything_again() {
    let machine = Machine::new("lost");
    let made = machine.init();
    machine.backup();
    fs::remove_dir_all(machine.root.join("machine/var")).unwrap();
    let told = machine.bad(1, &["snapshots", "list"]);
    assert!(told.contains("[vault-key]") && told.contains("anshin vault keys recover"), "{told}");
    machine.bad(2, &["restore", "latest", "--to", &machine.path("back")]);
    machine.bad(2, &["backup", &machine.path("data")]);
    let status = machine.bad(1, &["vault", "status"]);
    assert!(status.contains("SNAPSHOTS"), "counting needs no key: {status}");
    assert!(machine.good(&["vault", "verify"]).contains("everything is as it was written"));

    let paper = machine.path("paper");
    fs::write(&paper, "00000-00000").unwrap();
    machine.bad(2, &["vault", "keys", "recover", "--recovery-key-file", &paper]);
    fs::write(&paper, made["recovery_key"].as_str().unwrap().to_lowercase()).unwrap();
    let keys = machine.json(&["vault", "keys", "recover", "--recovery-key-file", &paper]);
    assert_eq!(keys.as_array().unwrap().iter().filter(|key| key["here"] == true).count(), 1, "{keys}");
    machine.good(&["restore", "latest", "--to", &machine.path("back"), "--verify"]);

    // A bare machine needs nothing but the place and the paper.
    let bare = Machine::new("bare");
    let vault = machine.path("vault");
    bare.good(&["vault", "keys", "recover", "--vault", &vault, "--recovery-key-file", &paper]);
    bare.good(&["restore", "latest", "--vault", &vault, "--to", &bare.path("back"), "--verify"]);
}

#[test]
fn keys_are_added_listed_and_taken_back_but_never_the_last_on_paper() {
    let machine = Machine::new("keys");
    machine.init();
    let (paper, words) = (machine.path("paper"), machine.path("words"));
    fs::write(&words, "correct horse battery\n").unwrap();
    machine.good(&["vault", "keys", "add", "--passphrase-file", &words, "--label", "admin"]);
    let keys = machine.json(&["vault", "keys", "add", "--recovery-key-file", &paper]);
    let kinds: Vec<&str> = keys.as_array().unwrap().iter().map(|key| key["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["machine", "recovery", "passphrase", "recovery"]);
    machine.good(&["vault", "keys", "remove", "4"]);
    assert_eq!(machine.run(&["vault", "keys", "remove", "2"]).status.code(), Some(3));
    fs::remove_dir_all(machine.root.join("machine/var")).unwrap();
    machine.good(&["vault", "keys", "recover", "--passphrase-file", &words]);
    machine.good(&["snapshots", "list"]);
}

#[test]
fn damage_is_found_and_named_down_to_the_file() {
    let machine = Machine::new("damage");
    machine.init();
    let done = machine.backup();
    let packs = machine.root.join("vault/packs");
    let mut files: Vec<PathBuf> = fs::read_dir(&packs)
        .unwrap()
        .flat_map(|domain| fs::read_dir(domain.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("d-"))
        .collect();
    files.sort();
    let mut bytes = fs::read(&files[0]).unwrap();
    // Inside the body of the first object.
    bytes[64 + 44 + 20] ^= 1;
    fs::set_permissions(&files[0], fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&files[0], bytes).unwrap();
    let output = machine.run(&["vault", "verify", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let verified: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verified["good"], false);
    let damaged = &verified["damaged"][0];
    assert_eq!(damaged["snapshot"], done["snapshot"]);
    assert_eq!(damaged["files"][0].as_str().unwrap(), machine.path("data/deep/two"));
    let told = machine.bad(1, &["vault", "verify", "--keys"]);
    assert!(told.contains("data/deep/two") && told.contains("hint: "), "{told}");

    // What is still on the machine mends it.
    machine.good(&["backup", &machine.path("data"), "--exclude", "*.tmp"]);
    machine.good(&["restore", "latest", "--to", &machine.path("back"), "--verify"]);
}

#[test]
fn snapshots_are_listed_looked_into_searched_and_compared() {
    let machine = Machine::new("look");
    machine.init();
    let first = machine.backup();
    fs::write(machine.root.join("data/new"), "new").unwrap();
    fs::write(machine.root.join("data/one"), "other").unwrap();
    fs::remove_file(machine.root.join("data/link")).unwrap();
    let second = machine.backup();
    let (first, second) = (first["snapshot"].as_str().unwrap(), second["snapshot"].as_str().unwrap());
    let list = machine.good(&["snapshots", "list"]);
    assert!(list.contains(&first[..8]) && list.contains("/data"), "{list}");
    let shown = machine.json(&["snapshots", "show", first]);
    assert_eq!(shown["description"]["excludes"][0], "*.tmp");
    let deep = machine.good(&["snapshots", "show", first, &machine.path("data"), "-r"]);
    assert!(deep.contains("deep/two") && deep.contains("link -> one"), "{deep}");
    let found = machine.good(&["snapshots", "find", "**/new"]);
    assert!(found.starts_with(&second[..8]) && found.lines().count() == 1, "{found}");
    let diff = machine.good(&["snapshots", "diff", &first[..6], "latest", &machine.path("data")]);
    let data = machine.path("data");
    assert_eq!(diff, format!("- {data}/link\n+ {data}/new\nM {data}/one\n"));
    let lines = machine.good(&["snapshots", "diff", first, second, "--json"]);
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines}");
    assert!(machine.bad(2, &["snapshots", "show", "ffff"]).contains("hint: see `anshin snapshots list`"));
    assert!(machine.bad(2, &["snapshots", "show", "x"]).contains("[snapshot-format]"));
}

#[test]
fn what_is_in_the_way_is_never_overwritten_without_being_told_to() {
    let machine = Machine::new("conflict");
    machine.init();
    machine.backup();
    fs::write(machine.root.join("data/one"), "changed").unwrap();
    let one = machine.path("data/one");
    machine.bad(3, &["restore", "latest", &one, "--in-place"]);
    assert_eq!(fs::read(&one).unwrap(), b"changed");
    let plan =
        machine.json(&["restore", "latest", &one, "--in-place", "--conflict", "overwrite", "--dry-run"]);
    assert_eq!(
        (plan["in_the_way_count"].as_u64(), plan["bytes_written"].as_u64()),
        (Some(1), Some(5)),
        "{plan}"
    );
    assert_eq!(fs::read(&one).unwrap(), b"changed");
    machine.good(&["restore", "latest", &one, "--in-place", "--conflict", "skip"]);
    assert_eq!(fs::read(&one).unwrap(), b"changed");
    machine.good(&["restore", "latest", &one, "--in-place", "--conflict", "overwrite"]);
    assert_eq!(fs::read(&one).unwrap(), b"first");
}

#[test]
fn streams_and_images_go_in_and_come_out() {
    let machine = Machine::new("stream");
    machine.init();
    let mut command = machine.command(&["backup", "--stdin", "dump.sql", "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; 100_000]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let back = machine.run(&["restore", "latest", "--to", "-"]);
    assert_eq!(back.stdout, vec![b'x'; 100_000]);

    let image = machine.path("disk.img");
    let mut content = vec![0; 3 << 20];
    content[1_000_000] = 9;
    fs::write(&image, &content).unwrap();
    machine.good(&["backup", "--image", &image]);
    let target = machine.path("out");
    machine.good(&["restore", "latest", "--to", &target, "--verify"]);
    assert_eq!(fs::read(format!("{target}{image}")).unwrap(), content);
}

#[test]
fn forgetting_is_previewed_explained_and_can_be_taken_back() {
    let machine = Machine::new("forget");
    machine.init();
    let all: Vec<String> =
        (0..3).map(|_| machine.backup()["snapshot"].as_str().unwrap().to_owned()).collect();
    let preview = machine.json(&["forget", "--keep-last", "1", "--dry-run"]);
    assert_eq!(preview["forgotten"].as_array().unwrap().len(), 2, "{preview}");
    assert_eq!(preview["groups"][0]["verdicts"].as_array().unwrap().len(), 3);
    assert_eq!(machine.json(&["snapshots", "list"]).as_array().unwrap().len(), 3);
    machine.good(&["forget", "--keep-last", "1"]);
    assert_eq!(machine.json(&["snapshots", "list"]).as_array().unwrap().len(), 1);
    machine.good(&["forget", "--undo", &all[0]]);
    assert_eq!(machine.json(&["snapshots", "list"]).as_array().unwrap().len(), 2);
    machine.good(&["vault", "gc"]);
    machine.good(&["restore", &all[1], "--to", &machine.path("back"), "--verify"]);
    assert_eq!(machine.run(&["forget"]).status.code(), Some(2));
    assert_eq!(machine.run(&["forget", &all[0], "--keep-last", "1"]).status.code(), Some(2));
}

#[test]
fn an_unreadable_thing_is_reported_and_the_rest_is_backed_up() {
    let machine = Machine::new("unreadable");
    machine.init();
    let there = machine.path("data/one");
    let told = machine.bad(2, &["backup", &there, &machine.path("nothing")]);
    assert!(told.contains("nothing"), "{told}");
    machine.bad(2, &["backup", &there, "--vault", "nowhere"]);
    let unknown = machine.bad(2, &["backup", &there, "--vault", &machine.path("empty")]);
    assert!(unknown.contains("is not there"), "{unknown}");
    assert_eq!(machine.run(&["backup"]).status.code(), Some(2));
}
