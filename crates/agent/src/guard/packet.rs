//! Telling neighbours where an address is: gratuitous ARP (RFC 5227) and unsolicited neighbour advertisements
//! (RFC 4861), built here byte by byte and sent through a packet socket, so that they do not depend on routes.
#![allow(unsafe_code)] // `sockaddr_ll` is not covered by rustix

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const EVERYONE: [u8; 6] = [0xff; 6];
/// The Ethernet address of ff02::1, all IPv6 nodes.
const ALL_NODES_HARDWARE: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;

/// A packet for one kind of protocol and one hardware address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    ethertype: u16,
    to: [u8; 6],
    bytes: Vec<u8>,
}

/// What makes neighbours of `address` send to `hardware` from now on. ARP as request and as reply, because some
/// systems learn only from one of them.
pub(super) fn announcement(address: IpAddr, hardware: [u8; 6]) -> Vec<Packet> {
    match address {
        IpAddr::V4(address) => [ARP_REQUEST, ARP_REPLY]
            .map(|kind| Packet {
                ethertype: ETHERTYPE_ARP,
                to: EVERYONE,
                bytes: arp(kind, address, hardware),
            })
            .into(),
        IpAddr::V6(address) => vec![Packet {
            ethertype: ETHERTYPE_IPV6,
            to: ALL_NODES_HARDWARE,
            bytes: advertisement(address, hardware),
        }],
    }
}

/// Sends a packet out of an interface.
pub(super) fn send(link: u32, packet: &Packet) -> io::Result<()> {
    // SAFETY: plain numbers; the result is checked before it becomes an owned descriptor.
    let socket = unsafe {
        let raw =
            libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(raw)
    };
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).expect("invariant: small constant");
    to.sll_protocol = packet.ethertype.to_be();
    to.sll_ifindex = i32::try_from(link).map_err(io::Error::other)?;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&packet.to);
    let size = libc::socklen_t::try_from(size_of_val(&to)).expect("invariant: a small structure");
    // SAFETY: both pointers are to live memory of the sizes given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.bytes.as_ptr().cast(),
            packet.bytes.len(),
            0,
            (&raw const to).cast(),
            size,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An ARP packet for Ethernet and IPv4 in which sender and target are the same address.
fn arp(kind: u8, address: Ipv4Addr, hardware: [u8; 6]) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4, 0, kind];
    out.extend_from_slice(&hardware);
    out.extend_from_slice(&address.octets());
    out.extend_from_slice(if kind == ARP_REQUEST { &[0; 6] } else { &EVERYONE });
    out.extend_from_slice(&address.octets());
    out
}

/// An IPv6 packet to all nodes with a neighbour advertisement: override, not solicited, with the hardware address.
fn advertisement(address: Ipv6Addr, hardware: [u8; 6]) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[2, 1]);
    message.extend_from_slice(&hardware);
    let sum = icmpv6_checksum(address, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(message.len()).expect("invariant: 32 bytes");
    let mut out = vec![0x60, 0, 0, 0];
    out.extend_from_slice(&length.to_be_bytes());
    // Hop limit 255 proves to the receiver that no router passed it on.
    out.extend_from_slice(&[ICMPV6, 255]);
    out.extend_from_slice(&address.octets());
    out.extend_from_slice(&ALL_NODES.octets());
    out.extend_from_slice(&message);
    out
}

/// The ones' complement sum over the pseudo header and the message (RFC 8200, 8.1).
fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(40 + message.len());
    bytes.extend_from_slice(&from.octets());
    bytes.extend_from_slice(&to.octets());
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, ICMPV6]);
    bytes.extend_from_slice(message);
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn gratuitous_arp_is_a_request_and_a_reply_to_everyone() {
        let packets = announcement("10.0.0.50".parse().unwrap(), HARDWARE);
        assert_eq!(packets.len(), 2);
        let request =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 0, 0, 50, 0, 0, 0, 0, 0, 0, 10, 0, 0, 50];
        assert_eq!(packets[0].bytes, request);
        assert_eq!((packets[1].bytes[7], packets[1].to), (ARP_REPLY, EVERYONE));
    }

    #[test]
    fn an_advertisement_overrides_and_its_checksum_holds() {
        let address: Ipv6Addr = "fd00::50".parse().unwrap();
        let packet = &announcement(address.into(), HARDWARE)[0];
        let message = &packet.bytes[40..];
        assert_eq!((message[0], message[4], packet.bytes[7]), (136, 0x20, 255));
        assert_eq!(icmpv6_checksum(address, ALL_NODES, message), 0, "a right sum over itself is 0");
    }
}
