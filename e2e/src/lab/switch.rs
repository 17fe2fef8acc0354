//! The bridge, the cables, and every kind of cut.
//!
//! Each node has a cable (`p-NAME` at the switch, `eth0` in the node) and, if wanted, a second one for data (`d-NAME`,
//! `eth1`). An unplugged cable is the switch's end set down: the node loses its carrier and nothing that its dying
//! sockets say leaves it. A silent cut between two parties, in one direction or both, is a rule in the bridge's own
//! forwarding chain (nftables), so that neither side's addresses, routes or neighbours change. The bridge's VLAN
//! filter and traffic-control drops would do the same but are missing from some kernels this runs on.

use super::process::Process;
use super::state::{CLIENT_ADDRESS, Lab, State};
use crate::error::{Context, LabError, Result, refuse};
use crate::sys;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Which way a silent cut works, seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What it sends vanishes.
    Out,
    /// What is sent to it vanishes.
    In,
    /// Both.
    Both,
}

/// Name that stands for the client's place in cuts.
pub const CLIENT: &str = "client";

/// Runs a tool in the network of `process` with `input`, which must succeed.
fn tool(process: Process, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    sys::run_in_network(&mut command, process.handle()?);
    let mut child = match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(LabError::Missing(format!("the tool {program} is not installed")));
        }
        other => other.at(program)?,
    };
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes()).at(program)?;
    }
    let output = child.wait_with_output().at(program)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Tool { command: format!("{program} {}", arguments.join(" ")), output: words })
}

/// Makes the bridges inside the switch's network.
pub fn build(switch: Process, data_link: bool) -> Result<()> {
    let mut script = String::from("link set lo up\n");
    for bridge in ["br0", "br1"].iter().take(if data_link { 2 } else { 1 }) {
        // No multicast snooping: it would swallow neighbour advertisements until a querier is elected.
        let _ = writeln!(script, "link add {bridge} type bridge forward_delay 0 mcast_snooping 0");
        let _ = writeln!(script, "link set {bridge} up");
    }
    tool(switch, "ip", &["-batch", "-"], &script)
}

/// Plugs a party in: cables into the network of `inside`, with its addresses.
pub fn connect(state: &State, name: &str, inside: Process, index: u8) -> Result<()> {
    let switch = state.switch()?;
    let data = state.data_link && name != CLIENT;
    let address = if name == CLIENT { CLIENT_ADDRESS.to_owned() } else { format!("10.77.0.{index}") };
    let cables = [("p", "eth0", "br0", address), ("d", "eth1", "br1", format!("10.78.0.{index}"))];
    for (kind, (prefix, inner, bridge, address)) in
        cables.into_iter().take(if data { 2 } else { 1 }).enumerate()
    {
        // Deleting first: the old cable of a machine that just died goes away in its own time.
        let _absent = tool(switch, "ip", &["link", "del", &format!("{prefix}-{name}")], "");
        let script = format!(
            "link add {prefix}-{name} type veth peer name {inner} address 02:77:00:00:{kind:02}:{index:02x} netns {}\n\
             link set {prefix}-{name} master {bridge} up\n",
            inside.pid
        );
        tool(switch, "ip", &["-batch", "-"], &script)?;
        // The guard of the node decides about its service addresses; these are the machine's own.
        let script = format!("link set lo up\naddress add {address}/24 dev {inner}\nlink set {inner} up\n");
        tool(inside, "ip", &["-batch", "-"], &script)?;
    }
    Ok(())
}

/// Plugs the cables of a node in or out at the switch.
pub fn plug(state: &State, name: &str, plugged: bool) -> Result<()> {
    let mut ports = vec![format!("p-{name}")];
    if state.data_link {
        ports.push(format!("d-{name}"));
    }
    let switch = state.switch()?;
    sys::in_network(switch.pid, move || ports.iter().try_for_each(|port| sys::set_link(port, plugged)))?
}

/// Puts the silent cuts that `state` lists in force, all others out of it.
pub fn enforce(state: &State) -> Result<()> {
    let mut script = String::from(
        "table bridge lab { }\ndelete table bridge lab\n\
         table bridge lab {\n chain forward {\n  type filter hook forward priority 0; policy accept;\n",
    );
    for (from, to) in &state.blocked {
        for prefix in ["p", "d"] {
            let _ = writeln!(script, "  iifname \"{prefix}-{from}\" oifname \"{prefix}-{to}\" drop");
        }
    }
    script.push_str(" }\n}\n");
    tool(state.switch()?, "nft", &["-f", "-"], &script)
}

/// Makes everything from one party to another vanish, or stops that.
pub fn block(lab: &Lab, pairs: &[(String, String)], blocked: bool) -> Result<()> {
    lab.update(|state| {
        for (from, to) in pairs {
            for party in [from, to] {
                if party != CLIENT {
                    state.node(party)?;
                }
            }
            let pair = (from.clone(), to.clone());
            if blocked {
                state.blocked.insert(pair);
            } else {
                state.blocked.remove(&pair);
            }
        }
        enforce(state)
    })
}

/// The pairs to block so that a node loses everybody, the client included, in the given way.
pub fn isolation(state: &State, node: &str, way: Way) -> Result<Vec<(String, String)>> {
    state.node(node)?;
    let others = state.nodes.keys().map(String::as_str).chain([CLIENT]).filter(|other| *other != node);
    Ok(others.flat_map(|other| pair(node, other, way)).collect())
}

/// The directed pairs between two parties.
pub fn pair(a: &str, b: &str, way: Way) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    if way != Way::In {
        pairs.push((a.to_owned(), b.to_owned()));
    }
    if way != Way::Out {
        pairs.push((b.to_owned(), a.to_owned()));
    }
    pairs
}

/// Unplugs a node, or plugs it in again and removes every silent cut that concerns it.
pub fn cut(lab: &Lab, name: &str, is_cut: bool) -> Result<()> {
    lab.update(|state| {
        plug(state, name, !is_cut)?;
        state.node_mut(name)?.cut = is_cut;
        if !is_cut && state.blocked.iter().any(|(from, to)| from == name || to == name) {
            state.blocked.retain(|(from, to)| from != name && to != name);
            enforce(state)?;
        }
        Ok(())
    })
}

/// Removes every cut of every kind.
pub fn heal_all(lab: &Lab) -> Result<()> {
    lab.update(|state| {
        let cut: Vec<String> =
            state.nodes.iter().filter(|(_, node)| node.cut).map(|(name, _)| name.clone()).collect();
        for name in cut {
            plug(state, &name, true)?;
            state.node_mut(&name)?.cut = false;
        }
        if state.blocked.is_empty() {
            return Ok(());
        }
        state.blocked.clear();
        enforce(state)
    })
}

/// Checks that a node name fits into an interface name.
pub fn check_name(name: &str) -> Result<()> {
    let fits = (1..=12).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && name != CLIENT;
    if fits {
        Ok(())
    } else {
        refuse(format!("{name:?} is no node name: 1 to 12 of a-z and 0-9, not \"client\""))
    }
}
