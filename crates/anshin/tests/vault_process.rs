//! A vault that a node of a site serves, with the real processes: made, found through the ledger, used by another data node over
//! the link, administered where it is.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Directories of several machines, and the processes that run on them.
struct Ground {
    root: PathBuf,
    children: Vec<Child>,
}

impl Ground {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("anshin-process-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        Self { root, children: Vec::new() }
    }

    fn command(&self, machine: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anshin"));
        command.args(arguments).env("ANSHIN_ROOT", self.root.join(machine)).env_remove("ANSHIN_VAULT");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, machine: &str, arguments: &[&str]) -> Output {
        self.command(machine, arguments).output().unwrap()
    }

    fn good(&self, machine: &str, arguments: &[&str]) -> String {
        let output = self.run(machine, arguments);
        let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{machine}: {arguments:?}: {all}");
        text(&output.stdout)
    }

    fn json(&self, machine: &str, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_str(&self.good(machine, &all)).unwrap()
    }

    /// Starts a process whose log is added to a file of the machine.
    fn start(&mut self, machine: &str, arguments: &[&str]) -> u32 {
        let log = self.root.join(format!("{machine}-{}.log", arguments[1]));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = self.command(machine, arguments);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        pid
    }

    fn end(&mut self, pid: u32, signal: &str) {
        Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
        let at = self.children.iter().position(|child| child.id() == pid).unwrap();
        self.children.remove(at).wait().unwrap();
    }

    fn log(&self, machine: &str, process: &str) -> String {
        fs::read_to_string(self.root.join(format!("{machine}-{process}.log"))).unwrap_or_default()
    }

    fn file(&self, machine: &str, path: &str) -> PathBuf {
        self.root.join(machine).join(path)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} takes too long");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Changes one line of a node's own file.
fn set(file: &Path, key: &str, value: &str) {
    let old = fs::read_to_string(file).unwrap();
    let lines = old.lines().map(|line| match line.starts_with(&format!("{key} = ")) {
        true => format!("{key} = {value}\n"),
        false => format!("{line}\n"),
    });
    fs::write(file, lines.collect::<String>()).unwrap();
}

/// A site of one data node `a` whose voter and vault run, and a second machine `b` with the same identity that knows the store
/// from the ledger alone.
fn site(ground: &mut Ground) -> u32 {
    ground.good("a", &["init", "test", "--node", "a", "--address", "127.0.0.1"]);
    set(&ground.file("a", "etc/anshin/node.toml"), "voter_port", &free_port().to_string());
    let place = ground.file("a", "store").display().to_string();
    let made = ground.json("a", &["vault", "init", &place, "--yes"]);
    assert_eq!(made["domain"], "site test", "{made}");
    assert!(made["recovery_key"].is_string());
    ground.start("a", &["run", "voter"]);
    let vault = ground.start("a", &["run", "vault", "main"]);

    for directory in ["etc/anshin", "var/lib/anshin", "run/anshin"] {
        fs::create_dir_all(ground.file("b", directory)).unwrap();
    }
    for directory in ["etc/anshin/identity", "var/lib/anshin/keys"] {
        copy(&ground.file("a", directory), &ground.file("b", directory));
    }
    let socket = ground.file("a", "run/anshin/voter.sock");
    std::os::unix::fs::symlink(&socket, ground.file("b", "run/anshin/voter.sock")).unwrap();
    until("the vault's entry in the ledger", || {
        ground.log("a", "vault").contains("the ledger knows now that the vault is served here")
    });
    vault
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Uses the site's usual port for vaults, 7805: one test, so that nothing else has it meanwhile.
#[test]
fn a_vault_is_found_through_the_ledger_used_over_the_link_and_administered_where_it_is() {
    let mut ground = Ground::new("story");
    let vault = site(&mut ground);
    fs::create_dir_all(ground.file("b", "data")).unwrap();
    for number in 0..50 {
        fs::write(ground.file("b", &format!("data/{number}")), vec![number; 50_000]).unwrap();
    }
    let data = ground.file("b", "data").display().to_string();

    // Over the link, from the machine that has no store.
    let done = ground.json("b", &["backup", &data]);
    assert_eq!((done["vault"].as_str(), done["files"].as_u64()), (Some("main"), Some(50)), "{done}");
    let again = ground.json("b", &["backup", &data]);
    assert!(again["new_bytes"].as_u64().unwrap() < 10_000, "{again}");
    let back = ground.file("b", "back").display().to_string();
    ground.good("b", &["restore", "latest", "--to", &back, "--verify"]);
    // What removes and checks is not asked for over the network.
    for arguments in [&["vault", "gc"][..], &["vault", "verify"], &["forget", "--keep-last", "1"]] {
        let output = ground.run("b", arguments);
        assert!(
            text(&output.stderr).contains("[vault-elsewhere]"),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }

    // Where it is, through the process that serves it.
    let status = ground.json("a", &["vault", "status"]);
    assert_eq!(status["domains"][0]["snapshots"].as_u64(), Some(2), "{status}");
    ground.good("a", &["forget", "--keep-last", "1"]);
    ground.good("a", &["vault", "gc"]);
    assert!(ground.log("a", "vault").contains("asked over the control socket"));
    ground.good("a", &["vault", "verify", "--keys"]);

    // The process dies and comes back, also in the middle of a backup: that one fails or goes on, the next succeeds.
    ground.end(vault, "-KILL");
    let output = ground.run("b", &["backup", &data]);
    assert!(text(&output.stderr).contains("[vault-unreachable]"), "{}", text(&output.stderr));
    let vault = ground.start("a", &["run", "vault", "main"]);
    until("the vault's return", || ground.run("b", &["snapshots", "list"]).status.success());
    let mut stream = ground.command("b", &["backup", "--stdin", "stream"]);
    let mut child =
        stream.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let feeding = thread::spawn(move || {
        let mut block = vec![0u8; 1 << 20];
        for number in 0u64..64 {
            for (at, byte) in block.iter_mut().enumerate() {
                *byte = (number.wrapping_mul(31).wrapping_add(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    >> 56) as u8;
            }
            if std::io::Write::write_all(&mut input, &block).is_err() {
                return;
            }
        }
    });
    thread::sleep(Duration::from_millis(300));
    ground.end(vault, "-KILL");
    let vault = ground.start("a", &["run", "vault", "main"]);
    feeding.join().unwrap();
    let ended = child.wait_with_output().unwrap();
    let told = text(&ended.stderr);
    assert!(ended.status.success() || told.contains("may pass"), "{told}");
    ground.good("b", &["backup", &data]);
    ground.good("a", &["vault", "verify", "--keys"]);

    // Who asks nicely is answered.
    ground.end(vault, "-TERM");
    assert!(!ground.file("a", "run/anshin/vault-main.ctl").exists());
    assert!(ground.log("a", "vault").contains("is no longer served"));
}
