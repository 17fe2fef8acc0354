//! Connections between volume processes: ordered, without loss inside a link, and they break.

use crate::world::{At, Event, MS, World};
use anshin_mirror::{Input, LinkId, wire::Message};
use std::collections::{BTreeMap, VecDeque};

/// Something on a link, for the process at its end on node `at`.
#[derive(Clone, Debug)]
pub struct LinkEvent {
    /// The node of the end.
    pub at: At,
    /// Which end: 0 or 1.
    pub end: usize,
    /// Which link.
    pub link: u64,
    /// What.
    pub what: LinkWhat,
}

/// What happens on a link.
#[derive(Clone, Debug)]
pub enum LinkWhat {
    /// The connection stands.
    Up,
    /// Something sent by the other end arrives.
    Arrive(Box<Message>),
    /// The network is asked again to take what it could not.
    Retry,
    /// The connection is gone for this end.
    Down,
}

#[derive(Clone, Debug)]
struct End {
    at: At,
    start: u64,
    open: bool,
    /// When the last thing towards this end arrives.
    last: u64,
    /// What a cut keeps from this end, and since when.
    stalled: VecDeque<LinkWhat>,
    since: u64,
}

#[derive(Clone, Debug)]
struct Link {
    ends: [End; 2],
    /// A cut longer than this breaks the link.
    patience: u64,
}

/// Every link that has an open end.
#[derive(Clone, Debug, Default)]
pub struct Links {
    all: BTreeMap<u64, Link>,
    last: u64,
}

impl Links {
    /// The node whose process an event is for.
    #[must_use]
    pub fn receiver(&self, event: &LinkEvent) -> At {
        event.at
    }

    fn open_between(&self, from: (At, u64), to: At) -> bool {
        self.all.values().any(|link| {
            (0..2).any(|end| {
                let (own, other) = (&link.ends[end], &link.ends[1 - end]);
                own.open && (own.at, own.start) == from && other.at == to
            })
        })
    }

    /// Open ends of a process.
    fn of(&self, at: At, start: u64) -> Vec<(u64, usize)> {
        let ends = self.all.iter().flat_map(|(id, link)| (0..2).map(move |end| (*id, end, link)));
        ends.filter(|(_, end, link)| (link.ends[*end].at, link.ends[*end].start) == (at, start))
            .map(|(id, end, _)| (id, end))
            .collect()
    }

    /// All links.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.all.keys().copied().collect()
    }
}

impl World {
    /// The pair of nodes tries to connect, and again later.
    pub fn connect(&mut self, low: At, high: At) {
        let again = 100 * MS + self.rng.below(100 * MS);
        self.after(again, Event::Connect { low, high });
        let start = |at: At| self.nodes[at].volume.as_ref().map(|volume| volume.start);
        let (Some(one), Some(two)) = (start(low), start(high)) else { return };
        let passable = self.network.direct(low, high) && self.network.direct(high, low);
        if !passable || self.nodes[low].paused || self.nodes[high].paused {
            return;
        }
        if self.links.open_between((low, one), high) && self.links.open_between((high, two), low) {
            return;
        }
        self.links.last += 1;
        let id = self.links.last;
        let end = |at, start| End { at, start, open: false, last: 0, stalled: VecDeque::new(), since: 0 };
        let patience = self.rng.between(1_000 * MS, 4_000 * MS);
        self.links.all.insert(id, Link { ends: [end(low, one), end(high, two)], patience });
        for end in 0..2 {
            self.towards(id, end, LinkWhat::Up);
        }
    }

    /// Puts something on its way to one end, behind everything before it.
    fn towards(&mut self, id: u64, end: usize, what: LinkWhat) {
        let delay = self.network.latency(&mut self.rng);
        let now = self.now;
        let Some(link) = self.links.all.get_mut(&id) else { return };
        let to = &mut link.ends[end];
        to.last = to.last.max(now + delay);
        let (at, time) = (to.at, to.last);
        self.at(time, Event::Link(LinkEvent { at, end, link: id, what }));
    }

    /// A volume process sends.
    pub fn link_send(&mut self, at: At, start: u64, link: LinkId, message: Message) {
        let Some(known) = self.links.all.get(&link.0) else { return };
        let own = usize::from((known.ends[1].at, known.ends[1].start) == (at, start));
        if known.ends[own].open {
            self.towards(link.0, 1 - own, LinkWhat::Arrive(Box::new(message)));
        }
    }

    /// A volume process closes a link.
    pub fn link_close(&mut self, at: At, start: u64, link: LinkId) {
        let Some(known) = self.links.all.get_mut(&link.0) else { return };
        let own = usize::from((known.ends[1].at, known.ends[1].start) == (at, start));
        known.ends[own].open = false;
        self.towards(link.0, 1 - own, LinkWhat::Down);
    }

    /// A link breaks for both ends, not at the same time.
    pub fn link_break(&mut self, id: u64) {
        let Some(link) = self.links.all.get(&id) else { return };
        for (end, at) in [link.ends[0].at, link.ends[1].at].into_iter().enumerate() {
            let delay = self.rng.below(20 * MS);
            self.after(delay, Event::Link(LinkEvent { at, end, link: id, what: LinkWhat::Down }));
        }
    }

    /// A process is gone; its peers notice at once, or after a while if its machine lost power.
    pub fn links_of_dead(&mut self, at: At, start: u64, power: bool) {
        for (id, end) in self.links.of(at, start) {
            let Some(link) = self.links.all.get_mut(&id) else { continue };
            link.ends[end].open = false;
            let other = 1 - end;
            let node = link.ends[other].at;
            let delay = if power { self.rng.between(500 * MS, 3_000 * MS) } else { self.rng.below(5 * MS) };
            self.after(
                delay,
                Event::Link(LinkEvent { at: node, end: other, link: id, what: LinkWhat::Down }),
            );
        }
    }

    /// Something on a link.
    pub fn link_event(&mut self, event: LinkEvent) {
        let LinkEvent { at, end, link: id, what } = event;
        let now = self.now;
        let Some(link) = self.links.all.get_mut(&id) else { return };
        let from = link.ends[1 - end].at;
        let passes = self.network.direct(from, at);
        let (patience, own) = (link.patience, &mut link.ends[end]);
        match what {
            LinkWhat::Down => {
                let was = std::mem::replace(&mut own.open, false);
                let start = own.start;
                if !link.ends[0].open && !link.ends[1].open {
                    self.links.all.remove(&id);
                }
                if was {
                    self.trace.line(now, || format!("node {at}: link {id} down"));
                    self.volume_input(at, start, Input::LinkDown { link: LinkId(id) });
                }
            }
            LinkWhat::Retry if own.stalled.is_empty() => {}
            LinkWhat::Retry if passes => {
                for what in std::mem::take(&mut own.stalled) {
                    self.deliver(at, end, id, what);
                }
            }
            LinkWhat::Retry if now - own.since > patience => self.link_break(id),
            LinkWhat::Retry => {
                self.after(50 * MS, Event::Link(LinkEvent { at, end, link: id, what: LinkWhat::Retry }));
            }
            what if !passes || !own.stalled.is_empty() => {
                if own.stalled.is_empty() {
                    own.since = now;
                    self.after(50 * MS, Event::Link(LinkEvent { at, end, link: id, what: LinkWhat::Retry }));
                }
                if let Some(link) = self.links.all.get_mut(&id) {
                    link.ends[end].stalled.push_back(what);
                }
            }
            what => self.deliver(at, end, id, what),
        }
    }

    fn deliver(&mut self, at: At, end: usize, id: u64, what: LinkWhat) {
        let Some(link) = self.links.all.get_mut(&id) else { return };
        let own = &mut link.ends[end];
        let start = own.start;
        match what {
            LinkWhat::Up => {
                let running = self.nodes[at].volume.as_ref().is_some_and(|volume| volume.start == start);
                own.open = running;
                if running {
                    let now = self.now;
                    self.trace.line(now, || format!("node {at}: link {id} up"));
                    self.volume_input(at, start, Input::LinkUp { link: LinkId(id) });
                } else {
                    self.link_break(id);
                }
            }
            LinkWhat::Arrive(message) if own.open => {
                self.volume_input(at, start, Input::Received { link: LinkId(id), message: *message });
            }
            LinkWhat::Arrive(_) | LinkWhat::Retry | LinkWhat::Down => {}
        }
    }
}
