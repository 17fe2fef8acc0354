use super::*;
use anshin_base::{Generation, GroupId};

const LEASE: &str = "/run/lease-data";

fn hold() -> Hold {
    Hold { address: "10.0.0.50/24".parse().unwrap(), interface: None, lease: LEASE.into(), not_before: None }
}

fn at(ms: u64) -> Mono {
    Mono(ms * 1_000_000)
}

/// A lease that ends at `ms`.
fn until(ms: u64) -> LeaseReading {
    let record = LeaseRecord { group: GroupId(1), generation: Generation(1), until: at(ms), sequence: 1 };
    LeaseReading::Record(record)
}

/// A guard whose commands all succeed.
struct World {
    core: GuardCore,
    events: Vec<Happened>,
}

impl World {
    fn new() -> Self {
        Self { core: GuardCore::new(Timing::default()), events: Vec::new() }
    }

    fn look(&mut self, now: u64, reading: LeaseReading) -> Vec<Command> {
        self.core.observe(Path::new(LEASE), reading);
        let commands = self.core.decide(at(now));
        self.succeed(now, &commands);
        commands
    }

    fn succeed(&mut self, now: u64, commands: &[Command]) {
        for command in commands {
            let events = self.core.done(at(now), command, Ok(()));
            self.events.extend(events.into_iter().map(|event| event.happened));
        }
    }

    fn held(&self) -> bool {
        self.core.status()[0].held
    }
}

#[test]
fn an_address_is_held_only_while_its_lease_is_valid_and_comes_back_with_it() {
    let mut world = World::new();
    assert_eq!(world.core.hold(hold()).unwrap(), []);
    assert_eq!(world.look(0, LeaseReading::Missing), []);
    assert_eq!(world.look(20, until(900)), [Command::Add(hold())]);
    assert!(world.held());
    assert_eq!(world.look(900, until(900)), [Command::Remove(hold(), Gone::LeaseEnded)]);
    assert_eq!(world.look(920, until(900)), []);
    assert_eq!(world.look(940, until(2_000)), [Command::Add(hold())]);
    assert_eq!(world.events, [Happened::Held, Happened::LeaseEnded, Happened::Held]);
}

#[test]
fn the_address_goes_before_the_lease_ends_by_the_margin() {
    let mut world = World::new();
    world.core.hold(hold()).unwrap();
    world.look(0, until(1_000));
    let before = world.core.next_look(at(945));
    assert_eq!(before, at(950), "the guard wakes exactly when the margin begins");
    world.look(949, until(1_000));
    assert!(world.held());
    world.look(950, until(1_000));
    assert!(!world.held());
}

#[test]
fn a_primary_that_gives_up_its_lease_loses_the_address_at_the_next_look() {
    for reading in [until(0), LeaseReading::Missing] {
        let mut world = World::new();
        world.core.hold(hold()).unwrap();
        world.look(0, until(10_000));
        assert_eq!(world.look(20, reading), [Command::Remove(hold(), Gone::LeaseEnded)]);
    }
}

#[test]
fn a_half_written_record_neither_extends_nor_ends_a_lease() {
    let mut world = World::new();
    world.core.hold(hold()).unwrap();
    assert_eq!(world.look(0, LeaseReading::Unreadable), []);
    world.look(20, until(500));
    assert!(!world.look(40, LeaseReading::Unreadable).contains(&Command::Remove(hold(), Gone::LeaseEnded)));
    assert_eq!(world.look(460, LeaseReading::Unreadable), [Command::Remove(hold(), Gone::LeaseEnded)]);
}

#[test]
fn the_kernels_lifetime_is_renewed_while_the_lease_is() {
    let mut world = World::new();
    world.core.hold(hold()).unwrap();
    let mut renewals = Vec::new();
    for now in (0..=2_000).step_by(20) {
        if world.look(now, until(now + 900)).contains(&Command::Renew(hold())) {
            renewals.push(now);
        }
    }
    assert_eq!(renewals, [300, 600, 900, 1200, 1500, 1800]);
}

#[test]
fn neighbours_are_told_several_times_in_the_first_second_and_then_no_more() {
    let mut world = World::new();
    world.core.hold(hold()).unwrap();
    let mut told = Vec::new();
    for now in (0..=5_000).step_by(10) {
        if world.look(now, until(now + 900)).contains(&Command::Announce(hold())) {
            told.push(now);
        }
    }
    assert_eq!(told.len(), ANNOUNCEMENTS.len());
    assert!(told[0] <= 10 && told[5] <= 1_010, "{told:?}");
}

#[test]
fn the_successor_waits_until_the_predecessor_must_have_let_go() {
    let mut world = World::new();
    let late = Hold { not_before: Some(at(500)), ..hold() };
    world.core.hold(late.clone()).unwrap();
    assert_eq!(world.look(499, until(2_000)), []);
    assert_eq!(world.look(500, until(2_000)), [Command::Add(late)]);
}

#[test]
fn a_restarted_guard_goes_on_or_drops_what_the_last_one_added() {
    let mut world = World::new();
    world.core.resume(hold());
    assert_eq!(world.look(0, until(900)), [Command::Add(hold())]);
    let mut world = World::new();
    world.core.resume(hold());
    assert_eq!(world.look(0, LeaseReading::Missing), [Command::Remove(hold(), Gone::LeaseEnded)]);
    assert_eq!(world.look(20, LeaseReading::Missing), []);
}

#[test]
fn a_release_removes_the_address_and_the_hold() {
    let mut world = World::new();
    world.core.hold(hold()).unwrap();
    world.look(0, until(900));
    let commands = world.core.release(hold().address);
    assert_eq!(commands, [Command::Remove(hold(), Gone::Released)]);
    world.succeed(10, &commands);
    assert_eq!(world.core.status(), []);
    assert_eq!(world.core.release(hold().address), [], "releasing twice is no failure");
}

#[test]
fn a_failed_removal_is_tried_again_and_never_forgotten() {
    let mut world = World::new();
    world.core.hold(hold()).unwrap();
    world.look(0, until(900));
    let commands = world.core.release(hold().address);
    let events = world.core.done(at(10), &commands[0], Err("busy".to_owned()));
    assert_eq!(events[0].happened, Happened::Failed("busy".to_owned()));
    assert_eq!(world.core.holds(), [], "it is not wanted any more");
    assert_eq!(world.core.stays(hold().address), Some("busy"));
    assert_eq!(world.look(20, until(900)), [], "not at once");
    assert_eq!(world.look(210, until(900)), [Command::Remove(hold(), Gone::Released)]);
    assert_eq!(world.core.status(), []);
    assert_eq!(world.core.stays(hold().address), None);
}

#[test]
fn a_failed_addition_is_told_once_and_tried_again() {
    let mut world = World::new();
    world.core.hold(hold()).unwrap();
    world.core.observe(Path::new(LEASE), until(10_000));
    let mut told = 0;
    for now in [0, 200, 400] {
        let commands = world.core.decide(at(now));
        assert_eq!(commands, [Command::Add(hold())]);
        told += world.core.done(at(now), &commands[0], Err("no such device".to_owned())).len();
    }
    assert_eq!(told, 1);
    assert_eq!(world.core.status()[0].failure.as_deref(), Some("no such device"));
}

#[test]
fn a_hold_that_moves_to_another_interface_leaves_the_first() {
    let mut world = World::new();
    world.core.hold(hold()).unwrap();
    world.look(0, until(900));
    let other = Hold { interface: Some("eth1".to_owned()), ..hold() };
    let commands = world.core.hold(other.clone()).unwrap();
    assert_eq!(commands, [Command::Remove(hold(), Gone::Released)]);
    world.succeed(10, &commands);
    assert_eq!(world.look(20, until(900)), [Command::Add(other)]);
    let again = world.core.hold(Hold { lease: LEASE.into(), ..world.core.holds()[0].clone() }).unwrap();
    assert_eq!(again, [], "the same hold again changes nothing");
    assert!(world.held());
}
