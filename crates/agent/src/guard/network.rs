//! The guard's hands: its commands carried out on the kernel.

use super::{
    core::Command,
    netlink::{Assigned, Link, Netlink},
    packet::{self, Sender},
    protocol::Hold,
};
use anshin_base::Problem;
use std::{cell::RefCell, collections::BTreeMap, io, net::IpAddr};

/// The kernel's lifetime of an address. Whole seconds are all it knows; one would leave a guard that is late by a
/// second without its address.
pub(super) const LIFETIME_S: u32 = 2;
const LINK_UP: u32 = libc::IFF_UP as u32;
const LINK_LOOPBACK: u32 = libc::IFF_LOOPBACK as u32;
const LINK_NO_ARP: u32 = libc::IFF_NOARP as u32;
const KIND_ETHERNET: u16 = 1;

#[derive(Debug)]
pub(super) struct Network {
    netlink: RefCell<Netlink>,
    sender: Sender,
    /// On which link each address was added.
    links: RefCell<BTreeMap<IpAddr, Link>>,
}

impl Network {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            netlink: RefCell::new(Netlink::open()?),
            sender: Sender::open()?,
            links: RefCell::default(),
        })
    }

    /// Refuses what could never work, before it is promised.
    pub(super) fn check(&self, hold: &Hold) -> Result<(), Problem> {
        let link = self.find_link(hold)?;
        let present = self.netlink.borrow_mut().addresses().map_err(|error| system(hold, &error))?;
        let address = hold.address.address();
        match present.iter().find(|one| one.address == address && one.permanent) {
            None => Ok(()),
            Some(_) => Err(Problem::new(
                "address-configured",
                format!("{address} is configured on this node ({}), outside anshin", link.name),
            )
            .hint(
                "a service's address must not be in the network configuration of any node: remove it there",
            )),
        }
    }

    pub(super) fn execute(&self, command: &Command) -> Result<(), String> {
        match command {
            Command::Add(hold) => self.add(hold).map_err(|problem| problem.message),
            Command::Renew(hold) => self.renew(hold).map_err(|error| error.to_string()),
            Command::Remove(hold, _) => self.remove(hold).map_err(|error| error.to_string()),
            Command::Announce(hold) => self.announce(hold).map_err(|error| error.to_string()),
        }
    }

    fn add(&self, hold: &Hold) -> Result<(), Problem> {
        self.check(hold)?;
        let link = self.find_link(hold)?;
        let wanted = assigned(hold, &link);
        let added = self.netlink.borrow_mut().set_address(&wanted, LIFETIME_S);
        added.map_err(|error| system(hold, &error))?;
        self.links.borrow_mut().insert(hold.address.address(), link);
        Ok(())
    }

    fn renew(&self, hold: &Hold) -> io::Result<()> {
        let link = self.links.borrow().get(&hold.address.address()).cloned();
        let link = link.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.netlink.borrow_mut().set_address(&assigned(hold, &link), LIFETIME_S)
    }

    /// Removes the address wherever it has a lifetime: also where an earlier guard added it.
    fn remove(&self, hold: &Hold) -> io::Result<()> {
        let address = hold.address.address();
        let mut netlink = self.netlink.borrow_mut();
        for present in netlink.addresses()? {
            if present.address == address && !present.permanent {
                match netlink.delete_address(&present) {
                    // Its lifetime ended between the list and now.
                    Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                    outcome => outcome?,
                }
            }
        }
        self.links.borrow_mut().remove(&address);
        Ok(())
    }

    fn announce(&self, hold: &Hold) -> io::Result<()> {
        let links = self.links.borrow();
        let address = hold.address.address();
        let Some(link) = links.get(&address) else { return Ok(()) };
        let Some(hardware) = link.hardware else { return Ok(()) };
        if link.kind != KIND_ETHERNET || link.flags & (LINK_LOOPBACK | LINK_NO_ARP) != 0 {
            return Ok(());
        }
        packet::announcement(address, hardware).iter().try_for_each(|one| self.sender.send(link.index, one))
    }

    fn find_link(&self, hold: &Hold) -> Result<Link, Problem> {
        let mut netlink = self.netlink.borrow_mut();
        let links = netlink.links().map_err(|error| system(hold, &error))?;
        if let Some(name) = &hold.interface {
            return links.into_iter().find(|link| link.name == *name).ok_or_else(|| {
                Problem::new("no-such-interface", format!("this node has no interface {name}"))
            });
        }
        let present = netlink.addresses().map_err(|error| system(hold, &error))?;
        choose(hold, links, &present).ok_or_else(|| {
            let message = format!("no interface of this node is in the network of {}", hold.address);
            Problem::new("no-interface", message)
                .hint("name the interface, or correct the address or its prefix length")
        })
    }
}

/// The interface that has another address of the same network; one that is up before one that is down.
fn choose(hold: &Hold, links: Vec<Link>, present: &[Assigned]) -> Option<Link> {
    let fits = |link: &Link| {
        present.iter().any(|one| {
            one.link == link.index
                && one.address != hold.address.address()
                && hold.address.same_network(one.address)
        })
    };
    let mut fitting: Vec<Link> =
        links.into_iter().filter(|link| link.flags & LINK_LOOPBACK == 0 && fits(link)).collect();
    fitting.sort_by_key(|link| (link.flags & LINK_UP == 0, link.index));
    fitting.into_iter().next()
}

fn assigned(hold: &Hold, link: &Link) -> Assigned {
    Assigned {
        link: link.index,
        address: hold.address.address(),
        prefix: hold.address.prefix(),
        permanent: false,
    }
}

fn system(hold: &Hold, error: &io::Error) -> Problem {
    Problem::new("address-failed", format!("{}: {error}", hold.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, flags: u32) -> Link {
        Link { index, name: format!("eth{index}"), kind: 1, flags, hardware: None }
    }

    fn present(link: u32, address: &str) -> Assigned {
        Assigned { link, address: address.parse().unwrap(), prefix: 24, permanent: true }
    }

    fn hold(address: &str) -> Hold {
        Hold { address: address.parse().unwrap(), interface: None, lease: "/x".into(), not_before: None }
    }

    #[test]
    fn the_interface_is_the_one_in_the_same_network_that_is_up() {
        let links = || vec![link(1, LINK_LOOPBACK), link(2, LINK_UP), link(3, 0), link(4, LINK_UP)];
        let there = [
            present(1, "10.0.0.3"),
            present(2, "192.168.0.1"),
            present(3, "10.0.0.1"),
            present(4, "10.0.0.2"),
        ];
        assert_eq!(choose(&hold("10.0.0.50/24"), links(), &there).unwrap().index, 4);
        assert_eq!(choose(&hold("192.168.0.50/24"), links(), &there).unwrap().index, 2);
        assert_eq!(choose(&hold("172.16.0.50/24"), links(), &there), None);
        let only_itself = [present(2, "10.0.0.50")];
        assert_eq!(choose(&hold("10.0.0.50/24"), links(), &only_itself), None);
    }
}
