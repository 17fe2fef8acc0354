//! Proves the prover: each rule break that can be switched on is found by a directed scenario or by random histories. Only
//! `trust_newcomer` needs a replica that is lost and replaced, which the simulator does.
#![cfg(feature = "bugs")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod histories;
mod world;

use anshin_base::Millis;
use histories::history;
use world::{Bugs, World};

/// Whether any of the first histories sees the bug.
fn found(bugs: Bugs) -> bool {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = (0..150u64).any(|seed| {
        [2, 3].into_iter().any(|count| std::panic::catch_unwind(|| history(seed, count, bugs)).is_err())
    });
    std::panic::set_hook(quiet);
    found
}

macro_rules! bug {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                assert!(found(Bugs { $name: true, ..Bugs::default() }), "nobody saw the rule broken");
            }
        )*
    };
}

bug! {
    acknowledge_alone cool_early skip_reconciliation clear_dirty_at_connect trust_reconnect accept_old_session
    forget_peer_hot complete_before_removal write_before_log
}

#[test]
fn skip_grant_wait() {
    let mut world = World::new(2);
    world.peer_silent = Millis(200);
    world.bugs = Bugs { skip_grant_wait: true, ..Bugs::default() };
    world.bring_in_sync();
    let (ends, first) = world.succession();
    assert!(first < ends, "nobody saw the rule broken: {ends:?} {first:?} {}", world.dump());
}

#[test]
fn answer_in_doubt() {
    let mut world = World::new(2);
    world.bugs = Bugs { answer_in_doubt: true, ..Bugs::default() };
    world.bring_in_sync();
    world.nodes[0].hears_ledger = false;
    world.cut(0, 1);
    world.run(1500);
    world.heal(0, 1);
    world.run(300);
    let write = world.write(0, 0, 2, 4096);
    world.run(300);
    assert!(world.answer(0, write).is_some(), "nobody saw the rule broken: {}", world.dump());
}

#[test]
fn trust_old_image() {
    let mut world = World::new(2);
    world.bugs = Bugs { trust_old_image: true, ..Bugs::default() };
    world.bring_in_sync();
    let yesterday = world.nodes[1].disk.clone();
    for round in 2..6 {
        world.put(0, 0, round);
        world.flush(0);
    }
    world.crash(1, world::disk::Keep::All);
    world.nodes[1].disk = yesterday;
    world.cut(0, 1);
    world.start(1);
    world.run(300);
    assert!(world.nodes[1].promotable, "nobody saw the rule broken");
}
