//! Meshes on loopback with real TLS: who is let in, and how messages find their way.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use anshin_base::{LedgerEpoch, NodeId};
use anshin_link::{
    Credentials, Mesh, MeshEvent, MeshOptions,
    mesh::{
        Membership, MeshTimes,
        table::{PeerLiveness, Route},
        wire::kind,
    },
};
use bytes::Bytes;
use common::{authority, node};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// Far longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

type Order = Box<dyn FnOnce(&mut Mesh) + Send>;

/// A mesh that is driven by a task.
struct Party {
    id: NodeId,
    address: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
    events: mpsc::UnboundedReceiver<MeshEvent>,
    task: JoinHandle<()>,
}

impl Party {
    async fn start(credentials: Arc<Credentials>, listen: &str) -> Self {
        let options = MeshOptions {
            credentials,
            listen: vec![listen.parse().unwrap()],
            build: "test".to_owned(),
            times: MeshTimes::default(),
        };
        let mut mesh = Mesh::start(options).await.unwrap();
        let (id, address) = (mesh.me(), mesh.listening()[0]);
        let (orders, mut ordered) = mpsc::unbounded_channel::<Order>();
        let (happened, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    event = mesh.next() => drop(happened.send(event)),
                    Some(order) = ordered.recv() => order(&mut mesh),
                }
            }
        });
        Self { id, address, orders, events, task }
    }

    fn order(&self, order: impl FnOnce(&mut Mesh) + Send + 'static) {
        assert!(self.orders.send(Box::new(order)).is_ok());
    }

    async fn liveness_of(&self, node: NodeId) -> PeerLiveness {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.order(move |mesh| drop(tell.send(mesh.liveness())));
        told.await.unwrap().into_iter().find(|peer| peer.node == node).unwrap()
    }

    /// Waits for an event that `wanted` takes.
    async fn wait<T>(&mut self, what: &str, wanted: impl Fn(&MeshEvent) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = wanted(&self.events.recv().await.unwrap()) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{}: {what} never came", self.id))
    }

    async fn wait_for_link(&mut self, to: NodeId) {
        self.wait("a link", |event| (*event == MeshEvent::LinkUp(to)).then_some(())).await;
    }

    async fn wait_for_heartbeat(&mut self, node: NodeId) -> Bytes {
        self.wait("a heartbeat", |event| match event {
            MeshEvent::Heartbeat { from, payload, .. } if *from == node => Some(payload.clone()),
            _ => None,
        })
        .await
    }

    /// Says `text` to `to` until `to` has it: a message may be lost while links change.
    async fn tell(&self, to: &mut Self, text: &'static str) {
        let (node, from) = (to.id, self.id);
        let said = async {
            loop {
                self.order(move |mesh| {
                    let _ = mesh.send(node, kind::DAEMON, Bytes::from_static(text.as_bytes()));
                });
                let heard = MeshEvent::Message {
                    from,
                    kind: kind::DAEMON,
                    body: Bytes::from_static(text.as_bytes()),
                };
                while let Ok(event) = to.events.try_recv() {
                    if event == heard {
                        return;
                    }
                }
                to.events.recv().await.unwrap();
            }
        };
        timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("{text:?} never came"));
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn membership(nodes: &[(NodeId, SocketAddr)]) -> Membership {
    let nodes: BTreeMap<_, _> = nodes.iter().map(|(node, at)| (*node, vec![at.to_string()])).collect();
    Membership { nodes, next_node: NodeId(10) }
}

/// A port where nobody listens.
fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn two_nodes_find_each_other_and_carry_heartbeats_and_messages() {
    let site = authority("prod");
    let mut a = Party::start(node(&site, 1, "alpha"), "127.0.0.1:0").await;
    let mut b = Party::start(node(&site, 2, "beta"), "127.0.0.1:0").await;
    let both = membership(&[(a.id, a.address), (b.id, b.address)]);
    for party in [&a, &b] {
        let both = both.clone();
        party.order(move |mesh| {
            mesh.set_membership(both);
            mesh.set_heartbeat(LedgerEpoch(5), Bytes::from_static(b"well"));
        });
    }
    a.wait_for_link(b.id).await;
    b.wait_for_link(a.id).await;
    assert_eq!(a.wait_for_heartbeat(b.id).await, "well");
    a.tell(&mut b, "hello").await;
    b.tell(&mut a, "hello yourself").await;
    let seen = a.liveness_of(b.id).await;
    assert_eq!((seen.route, seen.linked, seen.epoch), (Route::Direct, true, LedgerEpoch(5)));
    assert!(seen.heard_directly.is_some());
}

#[tokio::test]
async fn r13_when_one_pair_is_cut_messages_and_liveness_go_through_the_third() {
    let site = authority("prod");
    let mut a = Party::start(node(&site, 1, "alpha"), "127.0.0.1:0").await;
    let mut b = Party::start(node(&site, 2, "beta"), "127.0.0.1:0").await;
    let c = Party::start(node(&site, 3, "gamma"), "127.0.0.1:0").await;
    // a and b know each other by addresses where nobody answers.
    let for_a = membership(&[(a.id, a.address), (b.id, nowhere()), (c.id, c.address)]);
    let for_b = membership(&[(a.id, nowhere()), (b.id, b.address), (c.id, c.address)]);
    let for_c = membership(&[(a.id, a.address), (b.id, b.address), (c.id, c.address)]);
    a.order(move |mesh| mesh.set_membership(for_a));
    b.order(move |mesh| mesh.set_membership(for_b));
    c.order(move |mesh| mesh.set_membership(for_c));
    a.wait_for_heartbeat(b.id).await;
    b.wait_for_heartbeat(a.id).await;
    a.tell(&mut b, "by way of gamma").await;
    b.tell(&mut a, "and back").await;
    let seen = a.liveness_of(b.id).await;
    assert_eq!((seen.route, seen.linked, seen.heard_directly), (Route::Via(c.id), false, None));
    assert!(seen.heard.is_some());
}

#[tokio::test]
async fn a_node_that_restarts_is_linked_again_and_known_as_restarted() {
    let site = authority("prod");
    let beta = node(&site, 2, "beta");
    let mut a = Party::start(node(&site, 1, "alpha"), "127.0.0.1:0").await;
    let b = Party::start(Arc::clone(&beta), "127.0.0.1:0").await;
    let both = membership(&[(a.id, a.address), (b.id, b.address)]);
    for party in [&a, &b] {
        let both = both.clone();
        party.order(move |mesh| mesh.set_membership(both));
    }
    a.wait_for_link(b.id).await;
    a.wait_for_heartbeat(b.id).await;
    let address = b.address.to_string();
    b.task.abort();
    a.wait("the end of the link", |event| (*event == MeshEvent::LinkDown(NodeId(2))).then_some(())).await;
    drop(b);
    let mut b = Party::start(beta, &address).await;
    b.order(move |mesh| mesh.set_membership(both));
    a.wait("the new incarnation", |event| match event {
        MeshEvent::Heartbeat { restarted: true, from: NodeId(2), .. } => Some(()),
        _ => None,
    })
    .await;
    a.tell(&mut b, "welcome back").await;
}

#[tokio::test]
async fn a_node_of_another_site_a_removed_one_and_garbage_are_kept_out() {
    let (site, other) = (authority("prod"), authority("prod"));
    let mut a = Party::start(node(&site, 1, "alpha"), "127.0.0.1:0").await;
    let mut b = Party::start(node(&site, 2, "beta"), "127.0.0.1:0").await;
    let stranger = Party::start(node(&other, 3, "stranger"), "127.0.0.1:0").await;
    let removed = Party::start(node(&site, 4, "removed"), "127.0.0.1:0").await;
    let both = membership(&[(a.id, a.address), (b.id, b.address)]);
    for intruder in [&stranger, &removed] {
        let mine = membership(&[(a.id, a.address), (b.id, b.address), (intruder.id, intruder.address)]);
        intruder.order(move |mesh| {
            mesh.set_membership(mine);
            mesh.set_heartbeat(LedgerEpoch(66), Bytes::from_static(b"let me in"));
        });
    }
    // Alpha is told to dial the stranger too, as if it had been given a wrong address.
    let with_stranger = membership(&[(a.id, a.address), (b.id, b.address), (stranger.id, stranger.address)]);
    a.order(move |mesh| mesh.set_membership(with_stranger));
    b.order(move |mesh| mesh.set_membership(both));

    let mut plain = TcpStream::connect(a.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: alpha\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Whatever alert comes, then the end.
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.unwrap();

    a.wait_for_link(b.id).await;
    for _ in 0..20 {
        let heard = a
            .wait("a heartbeat", |event| match event {
                MeshEvent::Heartbeat { from, .. } | MeshEvent::LinkUp(from) => Some(*from),
                _ => None,
            })
            .await;
        assert_eq!(heard, b.id);
    }
    a.tell(&mut b, "still here").await;
}
