//! What exists, kept in a JSON file, so that every command can be a process of its own.

use super::process::Process;
use crate::error::{Context, Result, refuse};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Name of the variable that marks every process of a lab with its directory.
pub const MARK: &str = "ANSHIN_LAB";

/// Address of the client's place on the control network.
pub const CLIENT_ADDRESS: &str = "10.77.0.250";

/// One machine of the lab.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    /// Position from 1; decides addresses.
    pub index: u8,
    /// Arguments of what process 1 keeps running; empty for a machine that only waits.
    pub run: Vec<String>,
    /// Holder of the namespaces while the machine is up.
    pub keeper: Option<Process>,
    /// The machine's process 1 while it is up.
    pub init: Option<Process>,
    /// The cables are unplugged.
    pub cut: bool,
}

impl Node {
    /// Address on the control network.
    pub fn address(&self) -> String {
        format!("10.77.0.{}", self.index)
    }

    /// Address on the data network.
    pub fn data_address(&self) -> String {
        format!("10.78.0.{}", self.index)
    }
}

/// A port of a node published on the host's loopback.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forward {
    /// Port on 127.0.0.1.
    pub host_port: u16,
    /// The node.
    pub node: String,
    /// Port inside the node.
    pub port: u16,
    /// The forwarding process.
    pub process: Option<Process>,
}

/// Everything that a lab consists of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The machines by name.
    pub nodes: BTreeMap<String, Node>,
    /// Holder of the switch's network.
    pub switch: Option<Process>,
    /// Holder of the client's network.
    pub client: Option<Process>,
    /// Published ports.
    pub forwards: Vec<Forward>,
    /// Silent one-way cuts: frames from the first to the second vanish.
    pub blocked: BTreeSet<(String, String)>,
    /// A second network between the nodes exists.
    pub data_link: bool,
}

/// A lab in its directory.
#[derive(Clone, Debug)]
pub struct Lab {
    dir: PathBuf,
}

/// The right to change a lab, one command at a time; ends when dropped.
pub struct Lock {
    _file: File,
}

impl Lab {
    /// The lab whose state lives in `dir`, which need not exist yet.
    pub fn at(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).at(dir.display())?;
        Ok(Self { dir: dir.canonicalize().at(dir.display())? })
    }

    /// The lab that already lives in `dir`.
    pub fn existing(dir: &Path) -> Result<Self> {
        if !dir.join("lab.json").exists() {
            return refuse(format!("no lab is up in {}", dir.display()));
        }
        Self::at(dir)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file or directory of one node, seen from the host.
    pub fn node_dir(&self, node: &str, part: &str) -> PathBuf {
        self.dir.join("nodes").join(node).join(part)
    }

    /// Waits for other commands on this lab to end and keeps further ones out.
    pub fn lock(&self) -> Result<Lock> {
        let file = File::create(self.dir.join("lock")).at("lock of the lab")?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).at("lock of the lab")?;
        Ok(Lock { _file: file })
    }

    /// What exists; nothing if the lab was never up.
    pub fn load(&self) -> Result<State> {
        match std::fs::read(self.dir.join("lab.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).at("lab.json"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(State::default()),
            Err(source) => Err(source).at("lab.json"),
        }
    }

    /// Writes down what exists.
    pub fn save(&self, state: &State) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(state).at("lab.json")?;
        let fresh = self.dir.join("lab.json.new");
        std::fs::write(&fresh, bytes).at("lab.json")?;
        std::fs::rename(&fresh, self.dir.join("lab.json")).at("lab.json")
    }

    /// Changes what is written down, alone.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        let mut state = self.load()?;
        let result = change(&mut state);
        // Also after a failure: what was started before it must be found by `down`.
        self.save(&state)?;
        result
    }

    /// One node by name.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.load()?.node(name).cloned()
    }

    /// Process 1 of a node that is up.
    pub fn init(&self, name: &str) -> Result<Process> {
        match self.node(name)?.init.filter(|init| init.alive()) {
            Some(init) => Ok(init),
            None => refuse(format!("node {name} is not up")),
        }
    }

    /// Names of all nodes.
    pub fn names(&self) -> Result<Vec<String>> {
        Ok(self.load()?.nodes.keys().cloned().collect())
    }
}

impl State {
    /// One node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).map_or_else(|| refuse(unknown(name, &self.nodes)), Ok)
    }

    /// One node by name, to change it.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        let message = unknown(name, &self.nodes);
        self.nodes.get_mut(name).map_or_else(|| refuse(message), Ok)
    }

    /// The switch, which must be up.
    pub fn switch(&self) -> Result<Process> {
        self.switch.filter(|switch| switch.alive()).map_or_else(|| refuse("the lab's switch is not up"), Ok)
    }
}

fn unknown(name: &str, nodes: &BTreeMap<String, Node>) -> String {
    let names: Vec<&str> = nodes.keys().map(String::as_str).collect();
    format!("no node {name}; there are: {}", names.join(", "))
}
