//! Connections: greeting, version negotiation, who is who, and handing messages to the part they concern.

use super::{Replica, Role};
use crate::api::{Event, LinkId, Output};
use crate::codec::Stamped;
use crate::wire::{Hello, Message, VERSION};
use anshin_base::{Mono, ReplicaId, SessionId};

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    /// When it came up here.
    began: Mono,
    /// Who is at the other end, once it greeted.
    peer: Option<ReplicaId>,
    /// The other end asked for our greeting.
    challenged: bool,
    greeted: bool,
    /// A greeting that came before our own metadata was read.
    early: Option<Box<Hello>>,
}

/// How a peer takes part in our stream, while we are primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Part {
    /// Not at all.
    #[default]
    Off,
    /// Asked to attach.
    Asked {
        /// Number of the attach.
        number: u64,
        /// Its answer came; parts of its map follow.
        answered: bool,
    },
    /// It gets everything.
    On,
}

/// Another replica of the group.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub link: Option<LinkId>,
    pub session: SessionId,
    /// When its newest greeting was taken.
    greeted: Option<Mono>,
    pub last_heard: Option<Mono>,
    pub part: Part,
    /// Since when it takes no part.
    pub off_since: Mono,
    /// End of the lease that it granted us (R11).
    pub lease_until: Mono,
    /// The resync or reconciliation that runs into it.
    pub sync: Option<super::primary::Sync>,
    /// As member after a promotion: its open window was overwritten, in this reign (R6).
    pub reconciled: bool,
    /// It knows a newer entry than ours, or is still busy; not asked again before this.
    pub ask_after: Mono,
    pub highest: u64,
    /// As a primary, in its present session: the number of the newest attach that came from it.
    pub attach_newest: u64,
    /// Signs of life sent since it last did anything of what it was asked, while something is asked.
    pub idle_beats: u64,
}

impl Peer {
    /// The link is gone. A lease that was granted stands: the grantor waits it out whatever becomes of the link.
    pub fn unlink(&mut self) {
        self.link = None;
        self.part = Part::Off;
        self.sync = None;
        self.idle_beats = 0;
    }
}

impl Replica {
    pub(super) fn link_up(&mut self, link: LinkId) {
        if self.role == Role::Failed {
            self.out.push(Output::Close { link, why: "the replica failed".into() });
            return;
        }
        let began = self.now;
        let new = Link { began, peer: None, challenged: false, greeted: false, early: None };
        self.links.insert(link, new);
        self.out.push(Output::Send { link, message: Message::Challenge });
    }

    /// Greets on every link that waits for it.
    pub(super) fn greet_all(&mut self) {
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.greet(link);
            let found = self.links.get_mut(&link).filter(|found| found.greeted);
            if let Some(hello) = found.and_then(|found| found.early.take()) {
                self.hello(link, &hello);
            }
        }
    }

    /// Whether we may show ourselves: open, and our progress was checked against what others remember (R7).
    fn presentable(&self) -> bool {
        !matches!(self.role, Role::Opening | Role::Failed) && self.checked
    }

    fn greet(&mut self, link: LinkId) {
        if !self.presentable() {
            return;
        }
        match self.links.get_mut(&link) {
            Some(found) if found.challenged && !found.greeted => found.greeted = true,
            _ => return,
        }
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            group: self.superblock.group,
            member: self.me(),
            volume_bytes: self.config.volume_bytes,
            progress: self.progress_loaded,
            stamp: self.stamp().clone(),
            old_image: self.superblock.old_image,
        };
        self.out.push(Output::Send { link, message: Message::Hello(Box::new(hello)) });
    }

    /// Nothing was ever written to the data area, and it was zeroed when made.
    pub(super) fn virgin(&self) -> bool {
        self.superblock.zeroed && self.log.virgin() && !self.superblock.target && !self.superblock.old_image
    }

    pub(super) fn link_down(&mut self, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else {
            return;
        };
        self.stream_link_down(link);
        if let Some(replica) = gone.peer
            && self.peers.get(&replica).is_some_and(|peer| peer.link == Some(link))
        {
            self.peer_off(replica);
        }
    }

    /// Closes a link, as if it had gone down.
    pub(super) fn close(&mut self, link: LinkId, why: &str) {
        if self.links.contains_key(&link) {
            self.out.push(Output::Close { link, why: why.to_owned() });
            self.link_down(link);
        }
    }

    /// Closes the link to a peer; it may come back at once and is then treated by what is recorded.
    pub(super) fn drop_peer(&mut self, replica: ReplicaId, why: &str) {
        match self.peers.get(&replica).and_then(|peer| peer.link) {
            Some(link) => self.close(link, why),
            None => self.peer_off(replica),
        }
    }

    /// The peer takes no part any more.
    fn peer_off(&mut self, replica: ReplicaId) {
        let now = self.now;
        self.end_sync(replica);
        if let Some(peer) = self.peers.get_mut(&replica) {
            if peer.part == Part::On {
                peer.off_since = now;
            }
            peer.unlink();
        }
        self.peer_left();
    }

    pub(super) fn send(&mut self, replica: ReplicaId, message: Message) {
        if let Some(link) = self.peers.get(&replica).and_then(|peer| peer.link) {
            self.out.push(Output::Send { link, message });
        }
    }

    /// Says to every peer that this replica lives. Only a primary asks for signs of life, so that two secondaries would
    /// hear nothing of each other, and the one that is promoted could not tell whether the other is there.
    pub(super) fn alive_pass(&mut self) {
        if self.now < self.alive_at {
            return;
        }
        self.alive_at = self.now.after(self.config.heartbeat);
        for link in self.peers.values().filter_map(|peer| peer.link) {
            self.out.push(Output::Send { link, message: Message::Alive });
        }
    }

    pub(super) fn received(&mut self, link: LinkId, message: Message) {
        let Some(found) = self.links.get_mut(&link) else {
            return;
        };
        let (peer, greeted) = (found.peer, found.greeted);
        match (peer, message) {
            (None, Message::Challenge) if !found.challenged => {
                found.challenged = true;
                self.greet(link);
            }
            (None, Message::Hello(hello)) if greeted => self.hello(link, &hello),
            (None, Message::Hello(hello)) if found.early.is_none() => found.early = Some(hello),
            (None, _) => self.close(link, "the first message was not a greeting"),
            (Some(replica), message) => {
                if let Some(peer) = self.peers.get_mut(&replica) {
                    peer.last_heard = Some(self.now);
                }
                self.dispatch(link, replica, message);
            }
        }
    }

    fn hello(&mut self, link: LinkId, hello: &Hello) {
        let replica = hello.member.replica;
        let problem = if hello.group != self.superblock.group {
            Some("it belongs to another group")
        } else if hello.volume_bytes != self.config.volume_bytes {
            Some("its volume has another size")
        } else if replica.0 == 0 || hello.member.session.0 == 0 || replica == self.superblock.replica {
            Some("it has no identity of its own")
        } else if hello.version_min > VERSION || hello.version_max < VERSION {
            Some("it speaks no common version of the protocol")
        } else {
            None
        };
        if let Some(problem) = problem {
            return self.close(link, problem);
        }
        if self.is_outdated(link, hello) {
            return self.close(link, "older than the connection of the peer's present session");
        }
        if let Some(older) = self.peers.get(&replica).and_then(|peer| peer.link) {
            self.close(older, "replaced by a newer connection");
        }
        let Some(slot) = self.ensure_slot(replica) else {
            return self.close(link, "there are more replicas than dirty records");
        };
        if let Some(found) = self.links.get_mut(&link) {
            found.peer = Some(replica);
        }
        let now = self.now;
        let peer = self.peers.entry(replica).or_insert_with(|| Peer { off_since: now, ..Peer::default() });
        peer.link = Some(link);
        peer.greeted = Some(now);
        if peer.session != hello.member.session {
            peer.session = hello.member.session;
            peer.reconciled = false;
            peer.attach_newest = 0;
        }
        peer.last_heard = Some(now);
        peer.part = Part::Off;
        peer.ask_after = now;
        let primary_of = |stamp: &Stamped| stamp.entry.as_ref().and_then(|entry| entry.primary);
        let again = self.superblock.slots[slot].session == hello.member.session
            && primary_of(self.stamp()) == primary_of(&hello.stamp);
        self.check_progress(slot, hello);
        if self.bugs.clear_dirty_at_connect() || (again && self.bugs.trust_reconnect()) {
            self.maps[slot].clear_all();
            self.superblock.slots[slot].full = false;
        }
        if hello.stamp.entry.is_some() && hello.stamp.newer_than(self.stamp()) {
            self.learn_from_peer(hello.stamp.clone());
        } else if self.stamp().newer_than(&hello.stamp) {
            let stamp = self.stamp().clone();
            self.send(replica, Message::Newer(stamp));
        }
    }

    /// Whether the greeting may be that of a session which ended: messages of two links come in any order. A session lived
    /// after the link came up here, as it answered our challenge; so of two sessions the one is newer whose link came up
    /// after the greeting of the other. If neither did, the peer tries again.
    fn is_outdated(&self, link: LinkId, hello: &Hello) -> bool {
        let (Some(found), Some(peer)) = (self.links.get(&link), self.peers.get(&hello.member.replica)) else {
            return false;
        };
        peer.session != hello.member.session && peer.greeted.is_some_and(|greeted| found.began <= greeted)
    }

    /// Whether the peer presents less than we remember: a restored old image (R7).
    fn check_progress(&mut self, slot: usize, hello: &Hello) {
        let replica = hello.member.replica;
        let kept = &mut self.superblock.slots[slot];
        let seen = kept.highest;
        let restarted = kept.session != hello.member.session;
        kept.session = hello.member.session;
        let known = hello.old_image || self.bugs.trust_old_image();
        let older = restarted && hello.progress < seen && !known;
        if older {
            kept.highest = 0;
            self.send(replica, Message::OldImage { seen });
            let presented = hello.progress;
            self.event(Event::OldImage { replica, presented, seen });
        } else {
            kept.highest = seen.max(hello.progress);
        }
        if restarted {
            self.touch_superblock();
        }
        if older || hello.old_image {
            self.set_full(slot);
        }
    }

    /// Notes a progress number that the peer made durable (R7). Made durable here with the next superblock.
    pub(super) fn note_progress(&mut self, replica: ReplicaId, progress: u64) {
        if let Some(slot) = self.slot_of(replica) {
            let kept = &mut self.superblock.slots[slot];
            kept.highest = kept.highest.max(progress);
        }
        if let Some(peer) = self.peers.get_mut(&replica) {
            peer.highest = peer.highest.max(progress);
        }
    }

    fn dispatch(&mut self, link: LinkId, replica: ReplicaId, message: Message) {
        match message {
            Message::Challenge | Message::Hello(_) => self.close(link, "a second greeting"),
            Message::Alive => {}
            Message::Newer(stamp) => {
                if stamp.newer_than(self.stamp()) {
                    self.learn_from_peer(stamp);
                }
                // Refused for now: asked again later, if we are still primary by then.
                let again = self.now.after(self.config.heartbeat);
                if let Some(peer) = self.peers.get_mut(&replica)
                    && matches!(peer.part, Part::Asked { .. })
                {
                    peer.part = Part::Off;
                    peer.ask_after = again;
                }
            }
            Message::OldImage { seen } if !self.stage_serves() && self.counted_on() => {
                self.old_image_late(seen);
            }
            // A serving primary that is told so has gone on already; the peer's copy is what is compared then.
            Message::OldImage { seen } if self.role != Role::Primary => self.old_image(seen),
            Message::OldImage { seen } => {
                let presented = self.progress_loaded;
                self.event(Event::OldImage { replica: self.superblock.replica, presented, seen });
            }
            Message::Attach { number, stamp, reign, mode } => {
                self.attach(link, replica, super::stream::Asked { number, stamp, reign, mode });
            }
            Message::Begin { .. }
            | Message::Write { .. }
            | Message::Zero { .. }
            | Message::Flush { .. }
            | Message::Set(_)
            | Message::Reconciled
            | Message::Compare { .. }
            | Message::Repair { .. }
            | Message::Finish => self.stream_message(link, message),
            Message::LeaseRequest { number, points } => self.lease_request(link, replica, number, points),
            Message::Attached { .. }
            | Message::MapPart { .. }
            | Message::Ack { .. }
            | Message::FlushAck { .. }
            | Message::LeaseGrant { .. }
            | Message::Differ { .. }
            | Message::Repaired { .. }
            | Message::Finished { .. }
            | Message::FlushWanted => self.primary_message(replica, message),
        }
    }
}
