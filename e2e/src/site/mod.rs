//! The program under test, driven through its command line only. Every word and field name of it that the checks rely
//! on is in this folder.

mod bring_up;
mod passage;
mod status;

pub use bring_up::{MOUNT, Options, SERVICE_ADDRESS, VOLUME, bring_up, postgres_programs};
pub use passage::Passage;
pub use status::{Resynced, Status, Voter};

use crate::error::{Context, Result, refuse};
use crate::lab::{Lab, limited, node};
use serde_json::Value;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Name of the program on the nodes.
pub const PROGRAM: &str = "anshin";
/// Longest time for any command of the program; drills with real moves take the longest.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);
/// Longest time for a status. A node whose disk hangs must answer too; this is for those that have a fault there.
const STATUS_LIMIT: Duration = Duration::from_secs(20);
/// Time between two looks while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// A site on the machines of a lab.
#[derive(Clone, Debug)]
pub struct Site {
    lab: Lab,
    nodes: Vec<String>,
}

/// How a command of the program ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Site {
    /// The site on the machines of `lab`. By convention the last machine of three or more is the witness.
    pub fn on(lab: &Lab) -> Result<Self> {
        let state = lab.load()?;
        let mut nodes: Vec<(u8, String)> =
            state.nodes.iter().map(|(name, node)| (node.index, name.clone())).collect();
        nodes.sort();
        Ok(Self { lab: lab.clone(), nodes: nodes.into_iter().map(|(_, name)| name).collect() })
    }

    /// The machines below.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Every node.
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// Nodes that hold data.
    pub fn data_nodes(&self) -> &[String] {
        if self.nodes.len() > 2 { &self.nodes[..self.nodes.len() - 1] } else { &self.nodes }
    }

    /// The witness, if there is one.
    pub fn witness(&self) -> Option<&str> {
        (self.nodes.len() > 2).then(|| self.nodes.last().map(String::as_str))?
    }

    /// The other data node.
    pub fn other(&self, node: &str) -> Result<String> {
        let other = self.data_nodes().iter().find(|name| *name != node);
        other.cloned().map_or_else(|| refuse("there is no second data node"), Ok)
    }

    /// Runs the program on a node, whatever comes of it.
    pub fn run(&self, node: &str, words: &[&str]) -> Result<Outcome> {
        self.run_within(COMMAND_LIMIT, node, words)
    }

    fn run_within(&self, limit: Duration, node: &str, words: &[&str]) -> Result<Outcome> {
        let words: Vec<&str> = [PROGRAM].into_iter().chain(words.iter().copied()).collect();
        let output =
            limited::output(&mut node::command(&self.lab, node, &words)?, limit).at(words.join(" "))?;
        Ok(Outcome {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs the program on a node; an error if it failed.
    pub fn must(&self, node: &str, words: &[&str]) -> Result<String> {
        let outcome = self.run(node, words)?;
        match outcome.code {
            Some(0) => Ok(outcome.out),
            code => refuse(format!(
                "on {node}: anshin {} ended with {code:?}: {}{}",
                words.join(" "),
                outcome.out,
                outcome.err.trim()
            )),
        }
    }

    /// Runs the program with `--json` and takes its answer apart.
    pub fn json(&self, node: &str, words: &[&str]) -> Result<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let text = self.must(node, &words)?;
        serde_json::from_str(&text).at(format!("answer of anshin {}", words.join(" ")))
    }

    /// What a node says of the site.
    pub fn status(&self, node: &str) -> Result<Status> {
        // The exit code of a status tells the level, so any code with an answer is an answer.
        let outcome = self.run_within(STATUS_LIMIT, node, &["status", "--json"])?;
        let value = serde_json::from_str(&outcome.out);
        value.map(Status::new).at(format!("status of {node}: {}", outcome.err.trim()))
    }

    /// What the first node says that answers and has a quorum.
    pub fn leading_status(&self) -> Result<Status> {
        let living = self.nodes.iter().filter(|node| self.lab.init(node).is_ok());
        let found = living.filter_map(|node| self.status(node).ok()).find(Status::quorate);
        found.map_or_else(|| refuse("no node has a quorum"), Ok)
    }

    /// The node on which the service runs.
    pub fn active(&self) -> Result<String> {
        self.leading_status()?.service_node().map_or_else(|| refuse("the service runs nowhere"), Ok)
    }

    /// Waits until a node with a quorum says what `wanted` accepts; how long that took.
    pub fn wait(&self, what: &str, limit: Duration, wanted: impl Fn(&Status) -> bool) -> Result<Duration> {
        let start = Instant::now();
        let mut last = String::from("nothing");
        while start.elapsed() < limit {
            match self.leading_status() {
                Ok(status) if wanted(&status) => return Ok(start.elapsed()),
                Ok(status) => last = status.sentence(),
                Err(error) => last = error.to_string(),
            }
            thread::sleep(LOOK);
        }
        refuse(format!("not {what} within {limit:?}; the last status said: {last}"))
    }

    /// Waits until any one server may die; how long that took.
    pub fn wait_protected(&self, limit: Duration) -> Result<Duration> {
        self.wait("protected", limit, |status| status.green() && status.doubt().is_none())
    }

    /// The file with a node's copy of the volume, as the host sees it.
    pub fn backing_file(&self, node: &str) -> PathBuf {
        self.lab.node_dir(node, "lib").join("volumes").join(VOLUME).join("data")
    }
}
