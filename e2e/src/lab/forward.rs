//! Publishing a node's port on the host's loopback, without a route between them.

use super::node;
use super::process::Process;
use super::state::{Forward, Lab};
use crate::error::{Context, Result};
use crate::sys;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

/// Starts a process that forwards 127.0.0.1:`host_port` to `port` inside `node`.
pub fn start(lab: &Lab, host_port: u16, node: &str, port: u16) -> Result<()> {
    lab.update(|state| {
        state.node(node)?;
        if let Some(old) = state.forwards.iter().find(|old| old.host_port == host_port)
            && let Some(process) = old.process
        {
            process.kill(std::time::Duration::from_secs(5))?;
        }
        state.forwards.retain(|old| old.host_port != host_port);
        let dir = lab.dir().to_string_lossy().into_owned();
        let words = ["forward-serve", "--dir", &dir, &host_port.to_string(), node, &port.to_string()];
        let mut child = node::helper(lab, &words, "forwards.log")?;
        let process = i32::try_from(child.id()).ok().and_then(Process::of);
        state.forwards.push(Forward { host_port, node: node.to_owned(), port, process });
        let Some(out) = child.stdout.take() else { return Ok(()) };
        node::expect_line(&mut io::BufReader::new(out), "ready").map(drop)
    })
}

/// Forwards until killed. The node is looked up for every connection, so a node that comes back is found again.
pub fn serve(lab: &Lab, host_port: u16, node: &str, port: u16) -> Result<()> {
    rustix::process::setsid().at("new session")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, host_port)).at(format!("port {host_port}"))?;
    println!("ready");
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let Ok(inside) = connect(lab, node, port) else { continue };
        splice(client, inside);
    }
    Ok(())
}

/// A connection to a node's own loopback, usable from outside.
pub fn connect(lab: &Lab, node: &str, port: u16) -> Result<TcpStream> {
    let init = lab.init(node)?;
    sys::in_network(init.pid, move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?
        .at(format!("{node}, port {port}"))
}

/// Copies both ways until both sides have finished.
fn splice(left: TcpStream, right: TcpStream) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            // Whatever ends the copy, the other side learns it by the half-close.
            let _ended = io::copy(&mut from, &mut to);
            let _closed = to.shutdown(Shutdown::Write);
        });
    };
    if let (Ok(left_too), Ok(right_too)) = (left.try_clone(), right.try_clone()) {
        copy(left, right);
        copy(right_too, left_too);
    }
}
