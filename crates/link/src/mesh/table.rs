//! Who is alive, and by which way a message reaches whom (R13). Decides only; no I/O and no clock.
//!
//! A link is trusted to carry messages while the peer confirms that it hears heartbeats by it. When it no longer
//! does, messages go through a third node that has a link to the peer and hears it. A heartbeat counts whichever
//! way it came.

use super::wire::{Echo, Heartbeat, NEIGHBOURS_MAX, Neighbour};
use anshin_base::{LedgerEpoch, Millis, Mono, NodeId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// After this long without a confirmation a link is not relied on: four heartbeats, and well before a node counts
/// as silent (1,000 ms), so that the detour is found first.
const CONFIRMATION_AGE_MAX: Millis = Millis(400);

/// By which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// By the link to the node.
    Direct,
    /// Through this node.
    Via(NodeId),
    /// There is no way.
    None,
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLiveness {
    /// Which.
    pub node: NodeId,
    /// How long ago its last heartbeat came, by any way; None if none has come since this process started.
    pub heard: Option<Millis>,
    /// How long ago one came without a relay.
    pub heard_directly: Option<Millis>,
    /// Whether the link to it stands.
    pub linked: bool,
    /// How messages to it go now.
    pub route: Route,
    /// Time to it and back by the direct link, in microseconds.
    pub round_trip_micros: Option<u64>,
    /// The process's number; another one means that it restarted.
    pub incarnation: u64,
    /// Its ledger's epoch.
    pub epoch: LedgerEpoch,
    /// The payload of its last heartbeat.
    pub payload: Bytes,
}

/// What a heartbeat meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The first from this incarnation.
    Restarted,
    /// Newer than all before.
    Newer,
    /// Known already (it came by two ways).
    Known,
    /// There are more nodes than can be kept.
    Refused,
}

#[derive(Debug, Default)]
struct Peer {
    linked_since: Option<Mono>,
    confirmed: Option<Mono>,
    round_trip_nanos: Option<u64>,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    heartbeat: Heartbeat,
    at: Mono,
    direct: Option<(Mono, Echo)>,
}

/// The state of all nodes as seen from this one.
#[derive(Debug)]
pub struct Table {
    me: NodeId,
    incarnation: u64,
    sequence: u64,
    peers: BTreeMap<NodeId, Peer>,
}

impl Table {
    /// A table that knows nobody yet.
    #[must_use]
    pub fn new(me: NodeId, incarnation: u64) -> Self {
        Self { me, incarnation, sequence: 0, peers: BTreeMap::new() }
    }

    /// Forgets a node that was removed from the site.
    pub fn forget(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    /// A node of the site, known before anything was heard of it.
    pub fn expect(&mut self, node: NodeId) {
        if node != self.me && self.has_room_for(node) {
            self.peers.entry(node).or_default();
        }
    }

    /// The link to `node` stands.
    pub fn link_up(&mut self, node: NodeId, now: Mono) {
        if self.has_room_for(node) {
            self.peers.entry(node).or_default().linked_since = Some(now);
        }
    }

    /// The link to `node` broke.
    pub fn link_down(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.linked_since = None;
        }
    }

    /// The next heartbeat to send.
    pub fn next_heartbeat(&mut self, now: Mono, epoch: LedgerEpoch, payload: Bytes) -> Heartbeat {
        self.sequence += 1;
        let neighbours = self.peers.iter().map(|(node, peer)| Neighbour {
            node: *node,
            linked: peer.linked_since.is_some(),
            heard: peer
                .last
                .as_ref()
                .and_then(|last| last.direct)
                .map(|(at, echo)| Echo { ago: now.0.saturating_sub(at.0), ..echo }),
        });
        Heartbeat {
            incarnation: self.incarnation,
            sequence: self.sequence,
            stamp: now.0,
            epoch,
            neighbours: neighbours.collect(),
            payload,
        }
    }

    /// A heartbeat of `from` came, through `via` if it was relayed.
    pub fn heard(&mut self, from: NodeId, via: Option<NodeId>, heartbeat: Heartbeat, now: Mono) -> Heard {
        if from == self.me || !self.has_room_for(from) || heartbeat.neighbours.len() > NEIGHBOURS_MAX {
            return Heard::Refused;
        }
        let (me, incarnation) = (self.me, self.incarnation);
        let peer = self.peers.entry(from).or_default();
        let direct = via
            .is_none()
            .then_some((now, Echo { incarnation: heartbeat.incarnation, stamp: heartbeat.stamp, ago: 0 }));
        let heard = match &peer.last {
            Some(last) if last.heartbeat.incarnation == heartbeat.incarnation => {
                match heartbeat.sequence > last.heartbeat.sequence {
                    true => Heard::Newer,
                    false => Heard::Known,
                }
            }
            _ => Heard::Restarted,
        };
        let before = peer.last.as_ref().and_then(|last| last.direct).filter(|_| heard != Heard::Restarted);
        if heard == Heard::Known {
            if let Some(last) = &mut peer.last {
                last.direct = direct.or(before);
            }
            return heard;
        }
        let echo = heartbeat.neighbours.iter().find(|neighbour| neighbour.node == me).and_then(|n| n.heard);
        if let Some(echo) = echo.filter(|echo| echo.incarnation == incarnation && echo.stamp <= now.0) {
            peer.confirmed = peer.confirmed.max(Some(Mono(echo.stamp)));
            // Only a fresh echo on the direct way measures the link.
            if via.is_none() && echo.ago < 1_000_000_000 {
                peer.round_trip_nanos = Some(now.0.saturating_sub(echo.stamp).saturating_sub(echo.ago));
            }
        }
        peer.last = Some(Last { heartbeat, at: now, direct: direct.or(before) });
        heard
    }

    /// By which way a message to `to` goes now.
    #[must_use]
    pub fn route(&self, to: NodeId, now: Mono) -> Route {
        if self.is_confirmed(to, now) {
            return Route::Direct;
        }
        let relay = self.peers.keys().find(|relay| self.relays(**relay, to, now));
        match relay {
            Some(relay) => Route::Via(*relay),
            // Unconfirmed is better than nothing.
            None if self.peers.get(&to).is_some_and(|peer| peer.linked_since.is_some()) => Route::Direct,
            None => Route::None,
        }
    }

    /// Whether the direct link stands and the peer says that it hears us by it. A young link has the time to say so.
    #[must_use]
    pub fn is_confirmed(&self, to: NodeId, now: Mono) -> bool {
        self.peers.get(&to).is_some_and(|peer| {
            let fresh = |at: Mono| now.since(at) < CONFIRMATION_AGE_MAX;
            peer.linked_since.is_some_and(|since| fresh(since) || peer.confirmed.is_some_and(fresh))
        })
    }

    /// All nodes, by number.
    #[must_use]
    pub fn liveness(&self, now: Mono) -> Vec<PeerLiveness> {
        let entry = |(node, peer): (&NodeId, &Peer)| {
            let last = peer.last.as_ref();
            PeerLiveness {
                node: *node,
                heard: last.map(|last| now.since(last.at)),
                heard_directly: last.and_then(|last| last.direct).map(|(at, _)| now.since(at)),
                linked: peer.linked_since.is_some(),
                route: self.route(*node, now),
                round_trip_micros: peer.round_trip_nanos.map(|nanos| nanos / 1000),
                incarnation: last.map_or(0, |last| last.heartbeat.incarnation),
                epoch: last.map_or(LedgerEpoch(0), |last| last.heartbeat.epoch),
                payload: last.map(|last| last.heartbeat.payload.clone()).unwrap_or_default(),
            }
        };
        self.peers.iter().map(entry).collect()
    }

    /// Whether `relay` can be reached directly and has said lately that it can write to `to` and hears it.
    fn relays(&self, relay: NodeId, to: NodeId, now: Mono) -> bool {
        if relay == to || !self.is_confirmed(relay, now) {
            return false;
        }
        let Some(last) = self.peers.get(&relay).and_then(|peer| peer.last.as_ref()) else { return false };
        let age = now.since(last.at);
        age < CONFIRMATION_AGE_MAX
            && last.heartbeat.neighbours.iter().any(|neighbour| {
                let hears = neighbour.heard.is_some_and(|echo| echo.ago / 1_000_000 < CONFIRMATION_AGE_MAX.0);
                neighbour.node == to && neighbour.linked && hears
            })
    }

    /// Bounds the table against nodes that the ledger does not know (yet).
    fn has_room_for(&self, node: NodeId) -> bool {
        self.peers.len() < NEIGHBOURS_MAX || self.peers.contains_key(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Tables that exchange heartbeats at once; links in `cut` carry nothing.
    struct World {
        tables: BTreeMap<NodeId, Table>,
        cut: BTreeSet<(NodeId, NodeId)>,
        now: Mono,
    }

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    impl World {
        fn new() -> Self {
            let mut world = Self { tables: BTreeMap::new(), cut: BTreeSet::new(), now: Mono(1 << 40) };
            for node in [A, B, C] {
                let mut table = Table::new(node, u64::from(node.0) * 100);
                for peer in [A, B, C].into_iter().filter(|peer| *peer != node) {
                    table.expect(peer);
                    table.link_up(peer, world.now);
                }
                world.tables.insert(node, table);
            }
            world
        }

        fn run(&mut self, ms: u64) {
            for _ in 0..ms / 100 {
                self.now = self.now.after(Millis(100));
                for from in [A, B, C] {
                    let now = self.now;
                    let table = self.tables.get_mut(&from).unwrap();
                    let heartbeat = table.next_heartbeat(now, LedgerEpoch(1), Bytes::new());
                    for to in [A, B, C].into_iter().filter(|to| *to != from) {
                        let via = match self.tables[&from].route(to, now) {
                            Route::Via(relay) if !self.is_cut(from, relay) && !self.is_cut(relay, to) => {
                                Some(relay)
                            }
                            _ => None,
                        };
                        let direct = (!self.is_cut(from, to)).then_some(None);
                        for way in direct.into_iter().chain(via.map(Some)) {
                            self.tables.get_mut(&to).unwrap().heard(from, way, heartbeat.clone(), now);
                        }
                    }
                }
            }
        }

        fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
            self.cut.contains(&(from, to))
        }

        fn route(&self, from: NodeId, to: NodeId) -> Route {
            self.tables[&from].route(to, self.now)
        }

        fn heard(&self, at: NodeId, of: NodeId) -> Option<Millis> {
            let liveness = self.tables[&at].liveness(self.now);
            liveness.into_iter().find(|peer| peer.node == of).unwrap().heard
        }
    }

    #[test]
    fn r13_a_cut_pair_goes_through_the_third_and_stays_alive() {
        let mut world = World::new();
        world.run(1000);
        assert_eq!(world.route(A, B), Route::Direct);
        world.cut.extend([(A, B), (B, A)]);
        for _ in 0..50 {
            world.run(100);
            assert!(world.heard(A, B).unwrap() < Millis(600), "never silent for long");
        }
        assert_eq!((world.route(A, B), world.route(B, A)), (Route::Via(C), Route::Via(C)));
        world.cut.clear();
        world.run(1000);
        assert_eq!((world.route(A, B), world.route(B, A)), (Route::Direct, Route::Direct));
    }

    #[test]
    fn r13_one_way_loss_is_seen_by_the_sender() {
        let mut world = World::new();
        world.run(1000);
        world.cut.insert((A, B));
        world.run(1000);
        assert_eq!((world.route(A, B), world.route(B, A)), (Route::Via(C), Route::Direct));
        assert!(world.heard(B, A).unwrap() <= Millis(100));
    }

    #[test]
    fn a_dead_node_is_silent_and_nobody_relays_to_it() {
        let mut world = World::new();
        world.run(1000);
        world.cut.extend([(A, B), (B, A), (B, C), (C, B)]);
        world.run(1500);
        assert_eq!(world.heard(A, B), Some(Millis(1500)));
        for node in [A, C] {
            world.tables.get_mut(&node).unwrap().link_down(B);
        }
        assert_eq!(world.route(A, B), Route::None);
    }

    #[test]
    fn the_same_heartbeat_by_two_ways_counts_once_and_a_restart_is_seen() {
        let mut table = Table::new(A, 1);
        let mut other = Table::new(B, 2);
        let now = Mono(1 << 40);
        let first = other.next_heartbeat(now, LedgerEpoch(1), Bytes::new());
        let second = other.next_heartbeat(now, LedgerEpoch(1), Bytes::new());
        assert_eq!(table.heard(B, None, first.clone(), now), Heard::Restarted);
        assert_eq!(table.heard(B, Some(C), second.clone(), now), Heard::Newer);
        assert_eq!(table.heard(B, None, second, now), Heard::Known);
        assert_eq!(table.heard(B, None, first, now), Heard::Known);
        let reborn = Table::new(B, 3).next_heartbeat(now, LedgerEpoch(1), Bytes::new());
        assert_eq!(table.heard(B, None, reborn, now), Heard::Restarted);
    }

    #[test]
    fn round_trips_leave_out_the_time_an_echo_was_held() {
        let (mut a, mut b) = (Table::new(A, 1), Table::new(B, 2));
        a.link_up(B, Mono(0));
        let at = |ms| Mono(0).after(Millis(ms));
        let ping = a.next_heartbeat(at(100), LedgerEpoch(1), Bytes::new());
        b.heard(A, None, ping, Mono(77));
        let pong = b.next_heartbeat(Mono(77).after(Millis(60)), LedgerEpoch(1), Bytes::new());
        a.heard(B, None, pong, at(164));
        assert_eq!(a.liveness(at(164))[0].round_trip_micros, Some(4000));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Table::new(A, 1);
        for node in 2..1000 {
            let heartbeat = Table::new(NodeId(node), 1).next_heartbeat(Mono(0), LedgerEpoch(0), Bytes::new());
            table.heard(NodeId(node), None, heartbeat, Mono(0));
        }
        assert_eq!(table.liveness(Mono(0)).len(), NEIGHBOURS_MAX);
    }
}
