//! The little of rtnetlink that the guard needs: list links and addresses, add and delete an address.
//!
//! A message is a header (length, type, flags, sequence, port; native byte order), a fixed structure, and attributes
//! (length, type, value, padded to 4). Documented in rtnetlink(7) and the kernel's if_addr.h and if_link.h.
//! Written here because the whole need is these 250 lines, and the crates that cover rtnetlink are asynchronous and
//! change often; the guard is one thread that must not wait for a runtime.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    time::Duration,
};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;

const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_BROADCAST: u16 = 4;
const ADDRESS_CACHEINFO: u16 = 6;
const ADDRESS_FLAGS: u16 = 8;
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;

/// No duplicate address detection: it would keep an IPv6 address unusable for a second, and the ledger decides who
/// has it.
const FLAG_NO_DAD: u32 = 0x02;
const FLAG_PERMANENT: u32 = 0x80;

const HEADER_SIZE: usize = 16;
/// The kernel's dumps come in pieces of at most 32 KiB.
const RECEIVE_SIZE: usize = 32 * 1024;
/// How long the kernel may take; it answers at once unless another process holds its network lock.
const PATIENCE: Duration = Duration::from_secs(1);

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Its kind by ARPHRD number; 1 is Ethernet.
    pub(super) kind: u16,
    pub(super) flags: u32,
    /// Its hardware address, if it has one of six bytes.
    pub(super) hardware: Option<[u8; 6]>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) link: u32,
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
    /// Without a lifetime: someone configured it.
    pub(super) permanent: bool,
}

/// A socket to the kernel's routing.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // No protocol is protocol 0, NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.request(GET_LINK, DUMP, &[0; 16])?;
        Ok(answers
            .iter()
            .filter(|answer| answer.0 == NEW_LINK)
            .filter_map(|one| parse_link(&one.1))
            .collect())
    }

    pub(super) fn addresses(&mut self) -> io::Result<Vec<Assigned>> {
        let answers = self.request(GET_ADDRESS, DUMP, &[0; 8])?;
        let addresses = answers.iter().filter(|answer| answer.0 == NEW_ADDRESS);
        Ok(addresses.filter_map(|one| parse_address(&one.1)).collect())
    }

    /// Adds the address, or renews its lifetime if it is there.
    pub(super) fn set_address(&mut self, wanted: &Assigned, lifetime_s: u32) -> io::Result<()> {
        let body = address_body(wanted, Some(lifetime_s));
        self.request(NEW_ADDRESS, ACKNOWLEDGE | CREATE | REPLACE, &body).map(drop)
    }

    pub(super) fn delete_address(&mut self, gone: &Assigned) -> io::Result<()> {
        self.request(DELETE_ADDRESS, ACKNOWLEDGE, &address_body(gone, None)).map(drop)
    }

    /// Sends one request and collects the answers to it, up to the acknowledgement or the end of the dump.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &message(kind, REQUEST | flags, self.sequence, body), SendFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; RECEIVE_SIZE];
        loop {
            let (length, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
            for (kind, sequence, body) in split(&buffer[..length]) {
                if sequence != self.sequence {
                    // The late answer to a request that was given up.
                    continue;
                }
                match kind {
                    MESSAGE_DONE => return Ok(answers),
                    MESSAGE_ERROR => return error_of(body).map(|()| answers),
                    kind => answers.push((kind, body.to_vec())),
                }
            }
        }
    }
}

fn error_of(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(-libc::EPROTO, |code| i32::from_ne_bytes(*code));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_SIZE + body.len()).expect("invariant: requests are short");
    let mut out = Vec::with_capacity(HEADER_SIZE + body.len());
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(body);
    out
}

/// The messages in a datagram: kind, sequence, body. Ends at the first that does not fit.
fn split(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER_SIZE)?;
        let length = usize::try_from(u32::from_ne_bytes(header[..4].try_into().ok()?)).ok()?;
        let body = bytes.get(HEADER_SIZE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        Some((kind, sequence, body))
    })
}

/// The attributes after a fixed structure: type and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        // The two highest bits are flags about the value's form.
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn push_attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("invariant: values are short");
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// `struct ifaddrmsg` (family, prefix, flags, scope, index) and its attributes.
fn address_body(assigned: &Assigned, lifetime_s: Option<u32>) -> Vec<u8> {
    let family = if assigned.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut out = vec![u8::try_from(family).expect("invariant: small constants"), assigned.prefix, 0, 0];
    out.extend_from_slice(&assigned.link.to_ne_bytes());
    match assigned.address {
        IpAddr::V4(address) => {
            push_attribute(&mut out, ADDRESS_LOCAL, &address.octets());
            push_attribute(&mut out, ADDRESS_ADDRESS, &address.octets());
            if let (Some(_), 1..=30) = (lifetime_s, assigned.prefix) {
                let all = Ipv4Addr::from(u32::from(address) | (u32::MAX >> assigned.prefix));
                push_attribute(&mut out, ADDRESS_BROADCAST, &all.octets());
            }
        }
        IpAddr::V6(address) => {
            push_attribute(&mut out, ADDRESS_LOCAL, &address.octets());
            push_attribute(&mut out, ADDRESS_ADDRESS, &address.octets());
            if lifetime_s.is_some() {
                push_attribute(&mut out, ADDRESS_FLAGS, &FLAG_NO_DAD.to_ne_bytes());
            }
        }
    }
    if let Some(lifetime) = lifetime_s {
        // `struct ifa_cacheinfo`: preferred and valid lifetime in seconds, two time stamps the kernel sets.
        let mut info = [0; 16];
        info[..4].copy_from_slice(&lifetime.to_ne_bytes());
        info[4..8].copy_from_slice(&lifetime.to_ne_bytes());
        push_attribute(&mut out, ADDRESS_CACHEINFO, &info);
    }
    out
}

fn parse_address(body: &[u8]) -> Option<Assigned> {
    let prefix = *body.get(1)?;
    let mut flags = u32::from(*body.get(2)?);
    let link = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ADDRESS_LOCAL => local = parse_ip(value),
            ADDRESS_ADDRESS => address = parse_ip(value),
            ADDRESS_FLAGS => flags = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    // On a point-to-point link `address` is the other end's.
    Some(Assigned { link, address: local.or(address)?, prefix, permanent: flags & FLAG_PERMANENT != 0 })
}

fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// `struct ifinfomsg` (family, padding, kind, index, flags, changed flags) and its attributes.
fn parse_link(body: &[u8]) -> Option<Link> {
    let kind = u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?);
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let flags = u32::from_ne_bytes(body.get(8..12)?.try_into().ok()?);
    let mut link = Link { index, name: String::new(), kind, flags, hardware: None };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            LINK_NAME => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            LINK_ADDRESS => link.hardware = value.try_into().ok(),
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_message_format() {
        for (text, prefix) in [("10.0.0.50", 24), ("fd00::50", 64)] {
            let wanted = Assigned { link: 7, address: text.parse().unwrap(), prefix, permanent: false };
            let bytes = message(NEW_ADDRESS, 0, 3, &address_body(&wanted, Some(2)));
            let (kind, sequence, body) = split(&bytes).next().unwrap();
            assert_eq!((kind, sequence), (NEW_ADDRESS, 3));
            assert_eq!(parse_address(body), Some(wanted));
            let info = attributes(&body[8..]).find(|one| one.0 == ADDRESS_CACHEINFO).unwrap().1;
            assert_eq!(info[4..8], 2u32.to_ne_bytes());
        }
    }

    #[test]
    fn cut_messages_end_the_reading_and_never_panic() {
        let wanted = Assigned { link: 7, address: "fd00::50".parse().unwrap(), prefix: 64, permanent: false };
        let bytes = message(NEW_ADDRESS, 0, 3, &address_body(&wanted, Some(2)));
        for cut in 0..bytes.len() {
            assert_eq!(split(&bytes[..cut]).count(), 0);
            let body = &bytes[HEADER_SIZE.min(cut)..cut];
            let _ = parse_address(body);
            let _ = parse_link(body);
        }
        assert_eq!(split(&[0; 64]).take(100).count(), 0, "a length of 0 does not repeat for ever");
    }

    #[test]
    fn the_kernel_lists_its_loopback() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(loopback.index, 1);
        assert!(netlink.addresses().is_ok());
    }
}
