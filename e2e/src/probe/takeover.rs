//! How long an address is away when its machine goes, whatever program moves it: the same measure for every peer.

use super::machine::{Wanted, Watch};
use crate::error::{Result, refuse};
use crate::lab::{Lab, node, switch};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(10);
/// After the address has moved, how long the old holder is still watched.
const AFTERWARDS: Duration = Duration::from_secs(3);

fn watch(lab: &Lab, address: IpAddr) -> Result<Watch> {
    Watch::start(lab, &Wanted { address, volume: String::new(), mount: String::new() })
}

/// The machine that holds an address now.
pub fn holder(lab: &Lab, address: IpAddr) -> Result<String> {
    let watch = watch(lab, address)?;
    thread::sleep(5 * LOOK);
    let names = lab.names()?;
    let found = names.into_iter().find(|name| !watch.seen(name).address.all().is_empty());
    found.map_or_else(|| refuse(format!("no machine holds {address}")), Ok)
}

/// Kills or cuts the machine that holds an address: the time until another one holds it, and for how long both did.
pub fn measure(
    lab: &Lab,
    name: &str,
    address: IpAddr,
    cut: bool,
    limit: Duration,
) -> Result<(Duration, Duration)> {
    let watch = watch(lab, address)?;
    thread::sleep(5 * LOOK);
    let start = if cut {
        let start = Instant::now();
        switch::cut(lab, name, true)?;
        start
    } else {
        node::kill(lab, name)?.at
    };
    let others: Vec<String> = lab.names()?.into_iter().filter(|other| other != name).collect();
    let taken = loop {
        if let Some(at) = others.iter().filter_map(|other| watch.seen(other).address.first_after(start)).min()
        {
            break at;
        }
        if start.elapsed() > limit {
            return refuse(format!("nobody took {address} within {limit:?}"));
        }
        thread::sleep(LOOK);
    };
    if cut {
        thread::sleep(AFTERWARDS);
    }
    let both = watch.double_holders().into_iter().map(|(_, _, time)| time).max().unwrap_or_default();
    Ok((taken - start, both))
}
