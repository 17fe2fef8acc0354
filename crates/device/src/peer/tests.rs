//! Two ends of data links over loopback, each with its own ring and thread.

use super::*;
use anshin_base::{GroupId, NodeId};
use anshin_link::{Authority, NodeKey};
use anshin_mirror::wire::Points;
use bytes::Bytes;
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc::channel,
};

fn credentials(authority: &Authority, node: u32) -> Credentials {
    let key = NodeKey::generate().unwrap();
    let certificate =
        authority.issue(&key.request_pem().unwrap(), NodeId(node), &format!("n{node}")).unwrap();
    key.with_certificate(&certificate, authority.certificate_pem()).unwrap()
}

fn preface(replica: u64) -> Preface {
    Preface { group: GroupId(7), replica: ReplicaId(replica), volume_bytes: 1 << 30 }
}

fn place(replica: u64, node: u32, address: &str) -> ReplicaPlace {
    ReplicaPlace { replica: ReplicaId(replica), node: NodeId(node), addresses: vec![address.into()] }
}

fn write(byte: u8) -> Message {
    let data = Bytes::from(vec![byte; 1 << 20]);
    Message::Write { seq: 1, points: Points::default(), offset: 4096, data }
}

struct End {
    io: Io,
    peers: Peers,
    inputs: Vec<Input>,
}

impl End {
    fn open(me: Preface, credentials: &Credentials) -> Self {
        let mut io = Io::new().unwrap();
        let mut peers = Peers::open(me, Some(("127.0.0.1:0".parse().unwrap(), credentials))).unwrap();
        peers.start(&mut io);
        Self { io, peers, inputs: Vec::new() }
    }

    fn address(&self) -> String {
        let address = rustix::net::getsockname(&**self.peers.listener.as_ref().unwrap()).unwrap();
        SocketAddr::try_from(address).unwrap().to_string()
    }

    fn turn(&mut self) {
        self.peers.flush(&mut self.io, &mut self.inputs);
        let mut done = Vec::new();
        self.io.wait(&mut done).unwrap();
        for one in done {
            self.peers.completed(&mut self.io, one, &mut self.inputs);
        }
        self.peers.flush(&mut self.io, &mut self.inputs);
    }

    /// Turns until the next input, in order.
    fn next(&mut self) -> Input {
        while self.inputs.is_empty() {
            self.turn();
        }
        self.inputs.remove(0)
    }
}

/// Replica 2 on node 2 runs in a thread: echoes one message per link, until the process ends. Returns its address.
fn echoing(me: Preface, credentials: Credentials) -> String {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut end = End::open(me, &credentials);
        end.peers.set_places(&[place(1, 1, "")]);
        sender.send(end.address()).unwrap();
        loop {
            if let Input::Received { link, message } = end.next() {
                end.peers.send(link, &message, &mut end.inputs);
            }
        }
    });
    receiver.recv().unwrap()
}

/// Dials replica 2 on node 2: the link's number if it came up, None if it was refused.
fn dial(me: Preface, credentials: &Credentials, address: &str) -> Option<(End, LinkId)> {
    let mut end = End::open(me, credentials);
    end.peers.set_places(&[place(1, 1, ""), place(2, 2, address)]);
    end.peers.tick(&mut end.io, &mut end.inputs);
    while !end.peers.links.is_empty() {
        if let Some(Input::LinkUp { link }) = end.inputs.first() {
            let link = *link;
            end.inputs.clear();
            // The other end may still refuse; then the link goes down before it carries anything.
            end.peers.send(link, &write(9), &mut end.inputs);
            return match end.next() {
                Input::Received { message, .. } => {
                    assert!(message == write(9), "a message comes back as it was sent");
                    Some((end, link))
                }
                _ => None,
            };
        }
        end.turn();
    }
    None
}

#[test]
fn two_replicas_of_a_site_link_up_and_carry_payloads_of_a_megabyte() {
    let site = Authority::create("site").unwrap();
    let address = echoing(preface(2), credentials(&site, 2));
    let (mut end, link) = dial(preface(1), &credentials(&site, 1), &address).unwrap();
    for byte in 0..50 {
        end.peers.send(link, &write(byte), &mut end.inputs);
    }
    for byte in 0..50 {
        assert!(end.next() == Input::Received { link, message: write(byte) });
    }
}

#[test]
fn who_is_not_the_replica_that_the_ledger_places_there_is_refused() {
    let (site, other) = (Authority::create("site").unwrap(), Authority::create("site").unwrap());
    let address = echoing(preface(2), credentials(&site, 2));
    let refused = |me, credentials: &Credentials| dial(me, credentials, &address).is_none();
    assert!(refused(preface(1), &credentials(&other, 1)), "a certificate of another site");
    assert!(refused(preface(1), &credentials(&site, 3)), "a node where the ledger places no such replica");
    let other_group = Preface { group: GroupId(8), ..preface(1) };
    assert!(refused(other_group, &credentials(&site, 1)), "another group");
    let other_size = Preface { volume_bytes: 5, ..preface(1) };
    assert!(refused(other_size, &credentials(&site, 1)), "a volume of another size");
    assert!(!refused(preface(1), &credentials(&site, 1)), "the right one is still welcome");
    let wrong_place = echoing(preface(3), credentials(&site, 2));
    assert!(
        dial(preface(1), &credentials(&site, 1), &wrong_place).is_none(),
        "an unexpected replica at the address"
    );
}

#[test]
fn garbage_is_refused_and_the_next_link_still_works() {
    let site = Authority::create("site").unwrap();
    let address = echoing(preface(2), credentials(&site, 2));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3], &[0; 70_000]] {
        let mut stream = TcpStream::connect(&address).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(dial(preface(1), &credentials(&site, 1), &address).is_some());
}
