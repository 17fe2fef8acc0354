//! The program as a user starts it, against a socket that gives known answers: what it asks, prints and how it ends.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use anshin_base::Problem;
use anshin_node::view::{Facts, SiteStatus};
use serde::Serialize;
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Command, Output},
    sync::mpsc::{Receiver, channel},
    thread,
};

/// A socket in a directory of its own.
struct Socket(PathBuf);

impl Socket {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("anshin-command-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory.join("api.sock"))
    }

    /// Answers one request, and tells its first line and body.
    fn answer(&self, status: u16, body: &impl Serialize) -> Receiver<(String, String)> {
        let listener = UnixListener::bind(&self.0).unwrap();
        let body = serde_json::to_string(body).unwrap();
        let (tell, told) = channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                match line.trim_end() {
                    "" => break,
                    line => lines.push(line.to_owned()),
                }
            }
            let length = lines.iter().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
            });
            let mut asked = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            reader.read_exact(&mut asked).unwrap();
            tell.send((lines[0].clone(), String::from_utf8(asked).unwrap())).unwrap();
            write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        });
        told
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let program = Command::new(env!("CARGO_BIN_EXE_anshin"))
            .args(arguments)
            .env("ANSHIN_API_SOCKET", &self.0)
            .output();
        program.unwrap()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn status(name: &str) -> SiteStatus {
    let path = format!("{}/../node/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    SiteStatus::from_facts(serde_json::from_str::<Facts>(&std::fs::read_to_string(path).unwrap()).unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn status_ends_with_0_when_protected_and_1_when_not() {
    for (name, code) in [("healthy", 0), ("node-dead", 1), ("suspended", 1), ("no-quorum", 1)] {
        let socket = Socket::new(name);
        let asked = socket.answer(200, &status(name));
        let output = socket.run(&["status"]);
        assert_eq!(output.status.code(), Some(code), "{name}");
        assert!(text(&output.stdout).replace('\n', " ").contains(&status(name).posture.sentence), "{name}");
        assert!(!text(&output.stdout).contains('\x1b'), "no colours where no terminal is");
        assert_eq!(asked.recv().unwrap().0, "GET /api/v1/status HTTP/1.1");
    }
}

#[test]
fn json_is_what_the_api_said() {
    let socket = Socket::new("json");
    let _asked = socket.answer(200, &status("resyncing"));
    let output = socket.run(&["status", "--json"]);
    assert_eq!(serde_json::from_slice::<SiteStatus>(&output.stdout).unwrap(), status("resyncing"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_refusal_for_safety_ends_with_3_and_tells_code_and_hint() {
    let socket = Socket::new("refused");
    let problem =
        Problem::refused("no-current-copy", "b holds no current copy of data").hint("wait for the resync");
    let asked = socket.answer(409, &problem);
    let output = socket.run(&["service", "move", "postgresql", "--to", "b"]);
    assert_eq!(output.status.code(), Some(3));
    let expected = "error: b holds no current copy of data [no-current-copy]\nhint: wait for the resync\n";
    assert_eq!(text(&output.stderr), expected);
    assert_eq!(text(&output.stdout), "");
    let (line, body) = asked.recv().unwrap();
    assert_eq!(
        (line.as_str(), body.as_str()),
        ("POST /api/v1/services/postgresql/move HTTP/1.1", "{\"to\":\"b\"}")
    );
}

#[test]
fn a_node_that_cannot_be_reached_ends_with_2_and_a_hint() {
    let socket = Socket::new("nobody");
    let output = socket.run(&["status"]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    assert!(
        told.starts_with("error: ") && told.contains("[node-unreachable]\nhint: start the daemon"),
        "{told}"
    );
    let json = socket.run(&["status", "--json"]);
    assert_eq!(serde_json::from_slice::<Problem>(&json.stderr).unwrap().code, "node-unreachable");
}

#[test]
fn an_answer_that_is_no_answer_ends_with_2() {
    let socket = Socket::new("garbage");
    let _asked = socket.answer(200, &"hello");
    let output = socket.run(&["status"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("not as expected"));
}

#[test]
fn a_volume_is_asked_for_as_typed() {
    let socket = Socket::new("volume");
    let asked = socket.answer(200, &status("healthy").facts.volumes[0]);
    let output = socket.run(&["volume", "create", "data", "--size", "100G", "--mount", "/srv/data"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let (line, body) = asked.recv().unwrap();
    assert_eq!(line, "POST /api/v1/volumes HTTP/1.1");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((body["name"].as_str(), body["size_bytes"].as_u64()), (Some("data"), Some(100 << 30)));
    assert_eq!(body["mount"], "/srv/data");
}

#[test]
fn nonsense_on_the_command_line_ends_with_2() {
    let socket = Socket::new("nonsense");
    assert_eq!(socket.run(&["frobnicate"]).status.code(), Some(2));
    assert_eq!(socket.run(&["volume", "create", "data", "--size", "much"]).status.code(), Some(2));
}
