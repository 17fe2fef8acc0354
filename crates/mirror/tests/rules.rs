//! Directed scenarios, at least one per rule of replication; each name starts with its rule.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod world;

use anshin_base::{GroupChange, Member, Millis, ReplicaId};
use anshin_mirror::wire::{AttachMode, Message};
use anshin_mirror::{Command, Event, FrontError, FrontOp, Input, LinkId, RoleName};
use bytes::Bytes;
use world::disk::Keep;
use world::{GROUP, MIB, World, id};

const DONE: Option<Result<Bytes, FrontError>> = Some(Ok(Bytes::new()));

/// A group is made, one replica is promoted, others join without a comparison as nothing was ever written.
#[test]
fn r1_the_ledger_records_the_set_before_it_matters() {
    let mut world = World::in_sync(3);
    assert_eq!(world.role(0), RoleName::Primary);
    assert_eq!(world.status(0).counters.resync_compared_bytes, 0, "fresh replicas need no comparison");
    let generation = world.generation();
    world.put(0, 0, 7);
    world.flush(0);
    assert_eq!(world.get(0, 0), 7);
    assert_eq!(world.generation(), generation, "no write causes ledger traffic");
    world.assert_equal();
}

/// Closes: a write acknowledged by the primary alone, lost with it.
#[test]
fn r2_a_write_is_acknowledged_when_every_member_has_it() {
    let mut world = World::in_sync(3);
    world.nodes[2].disk.held = true;
    let write = world.write(0, 0, 9, 4096);
    world.settle();
    assert_eq!(world.answer(0, write), None, "node 2 has not written it");
    world.nodes[2].disk.held = false;
    world.settle();
    assert_eq!(world.answer(0, write), DONE);
}

/// Closes: the answer given while the silent member could still be promoted.
#[test]
fn r2_what_waits_for_a_silent_member_completes_only_after_its_removal() {
    let mut world = World::in_sync(2);
    world.quorum(false);
    world.cut(0, 1);
    let write = world.write(0, 0, 9, 4096);
    let flush = world.request(0, FrontOp::Flush);
    world.run(3000);
    assert_eq!(world.set(), [0, 1], "without a quorum nobody is removed");
    assert_eq!((world.answer(0, write), world.answer(0, flush)), (None, None));
    world.quorum(true);
    world.run(300);
    assert_eq!(world.set(), [0]);
    assert_eq!((world.answer(0, write), world.answer(0, flush)), (DONE, DONE));
}

/// Closes: a flush answered when only the primary's disk is durable.
#[test]
fn r2_a_flush_and_a_forced_write_are_durable_on_every_member() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 5);
    world.flush(0);
    let data = Bytes::from(vec![6; 4096]);
    let forced = world.request(0, FrontOp::Write { offset: 4096, data, fua: true });
    world.settle();
    assert_eq!(world.answer(0, forced), DONE);
    world.crash(0, Keep::Nothing);
    world.crash(1, Keep::Nothing);
    for node in 0..2 {
        assert_eq!((world.nodes[node].disk.byte(0), world.nodes[node].disk.byte(4096)), (5, 6));
    }
}

/// Closes: a member with a hung disk that still answers signs of life and holds every write for ever.
#[test]
fn r2_a_member_that_lives_but_does_nothing_is_removed() {
    let mut world = World::in_sync(3);
    world.nodes[2].disk.held = true;
    let write = world.write(0, 0, 9, 4096);
    world.run(5000);
    assert_eq!((world.answer(0, write), world.set()), (None, vec![0, 1, 2]), "slow is not stuck");
    world.run(6000);
    assert_eq!((world.answer(0, write), world.set()), (DONE, vec![0, 1]));
    world.put(0, 4096, 8);
    world.nodes[2].disk.held = false;
    world.run(3000);
    assert_eq!(world.set(), [0, 1, 2]);
    world.assert_equal();
}

/// Closes: a primary with a hung disk that lives on, so that nobody replaces it.
#[test]
fn r2_a_primary_whose_disk_hangs_gives_way_to_a_member() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 7);
    world.nodes[0].disk.held = true;
    let write = world.write(0, 0, 9, 4096);
    world.run(5000);
    assert_eq!((world.answer(0, write), world.role(0)), (None, RoleName::Primary), "slow is not stuck");
    world.run(6000);
    assert_eq!((world.answer(0, write), world.role(0)), (None, RoleName::Failed));
    world.promote(1);
    world.run(3000);
    world.put(1, 4096, 8);
    assert!(matches!(world.get(1, 0), 7 | 9), "what was not acknowledged may be there or not");
}

/// Closes: a primary that gives up its only copy because a disk is slow.
#[test]
fn r2_a_primary_alone_waits_for_its_disk() {
    let mut world = World::in_sync(1);
    world.nodes[0].disk.held = true;
    let write = world.write(0, 0, 9, 4096);
    world.run(60_000);
    assert_eq!((world.answer(0, write), world.role(0)), (None, RoleName::Primary));
    world.nodes[0].disk.held = false;
    world.settle();
    assert_eq!(world.answer(0, write), DONE);
}

/// Closes: the target of a resync that answers nothing but signs of life and holds every write.
#[test]
fn r2_a_target_that_lives_but_does_nothing_is_left_to_its_dirty_record() {
    let mut world = World::in_sync(2);
    world.cut(0, 1);
    world.run(1500);
    for block in 0..200u64 {
        world.put(0, block * 64 * 4096, 1);
    }
    world.heal(0, 1);
    while !world.status(0).peers[0].attached {
        assert!(world.step() || world.now.0 < 60_000_000_000);
    }
    world.nodes[1].disk.held = true;
    let write = world.write(0, 0, 9, 4096);
    world.run(1000);
    assert_eq!(world.answer(0, write), None);
    world.run(3000);
    assert_eq!(world.answer(0, write), DONE);
    world.nodes[1].disk.held = false;
    world.run(3000);
    assert!(world.member(1));
    world.assert_equal();
}

/// Closes: two writes to one block, applied in different order on two replicas.
#[test]
fn r2_overlapping_writes_are_applied_in_the_same_order_everywhere() {
    let mut world = World::in_sync(3);
    world.dice = Some(world::Dice(3));
    for round in 0..50u8 {
        for offset in [0, 4096, 2048] {
            world.write(0, offset, round, 8192);
        }
    }
    world.settle();
    world.assert_equal();
    assert!(world.status(0).in_flight == 0);
}

/// Closes: an answer lost on the way taken for a refusal, or for success.
#[test]
fn r3_an_unknown_outcome_is_resolved_by_reading() {
    let mut world = World::in_sync(2);
    world.nodes[0].answers_lost = true;
    world.cut(0, 1);
    let write = world.write(0, 0, 9, 4096);
    world.run(3000);
    assert_eq!(world.set(), [0], "it was applied, though the answer was lost");
    assert_eq!(world.answer(0, write), DONE);
    assert_eq!(world.get(0, 0), 9);
}

/// Closes: a removal that nobody answered, recorded after the member came back, confirmed new writes, and the primary died: whoever
/// holds the writes is no member any more.
#[test]
fn r3_nothing_is_answered_while_a_removal_may_still_be_recorded() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    let (generation, entry) = (world.generation(), world.entry.clone().unwrap());
    // Node 0 proposes to remove node 1, and hears nothing of it.
    world.nodes[0].hears_ledger = false;
    world.cut(0, 1);
    world.run(1500);
    world.heal(0, 1);
    world.run(300);
    let write = world.write(0, 0, 2, 4096);
    world.run(300);
    assert!(world.nodes[0].lease_until > world.now && world.nodes[1].disk.byte(0) == 2, "node 1 is back");
    assert_eq!(world.answer(0, write), None, "{}", world.dump());
    world.nodes[0].hears_ledger = true;
    world.quorum(false);
    let why = world.status(0).suspended.unwrap();
    assert!(why.contains(&id(1).to_string()) && why.contains("quorum"), "{why}");
    world.quorum(true);
    world.run(300);
    assert_eq!((world.answer(0, write), world.status(0).suspended), (DONE, None));
    assert_eq!((world.set(), world.status(0).counters.resync_compared_bytes), (vec![0, 1], 0));
    let proposer = entry.primary.unwrap();
    let in_sync = [(proposer.replica, proposer.session)].into();
    let removal = GroupChange::SetMembers { group: GROUP, expect: generation, proposer, in_sync };
    assert!(world.change(&removal).is_err(), "it comes too late now");
}

/// Closes: a possible member that is not waited for, because its addition is not known to be applied.
#[test]
fn r3_a_possible_member_is_waited_for_and_must_grant_the_lease() {
    let mut world = World::in_sync(2);
    world.cut(0, 1);
    world.run(1500);
    world.put(0, 0, 1);
    world.heal(0, 1);
    // The ledger answers nothing more; the proposal to add node 1 stays open.
    world.nodes[0].hears_ledger = false;
    world.run(200);
    assert!(world.status(0).peers[0].attached);
    world.cut(0, 1);
    let write = world.write(0, 0, 2, 4096);
    world.run(3000);
    assert_eq!(world.answer(0, write), None, "node 1 may be a member and may be promoted");
    assert!(world.nodes[0].lease_until <= world.now);
    world.heal(0, 1);
    world.rejoin(0);
    world.run(3000);
    assert_eq!(world.answer(0, write), DONE);
    assert_eq!(world.set(), [0, 1]);
}

/// Closes: a member that restarted and lost its volatile cache, still counted as in sync.
#[test]
fn r4_a_restarted_member_is_removed_and_resynced() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 5);
    world.crash(1, Keep::Nothing);
    assert_eq!(world.nodes[1].disk.byte(0), 0, "what it acknowledged is gone");
    world.start(1);
    world.run(3000);
    assert!(world.member(1));
    world.assert_equal();
    let status = world.status(0);
    assert!(status.counters.resync_compared_bytes > 0);
    assert!(status.counters.resync_sent_bytes <= 4096, "only the block that differs is sent");
}

/// Closes: a restarted replica that is promoted while another member still holds what it lost.
#[test]
fn r4_a_restarted_replica_does_not_serve_while_a_member_did_not_restart() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 5);
    world.cut(0, 1);
    world.crash(1, Keep::Nothing);
    world.start(1);
    world.heal(0, 1);
    world.nodes[0].hears_ledger = false;
    world.promote(1);
    world.run(1500);
    assert_ne!(world.role(1), RoleName::Primary);
    assert!(world.status(1).suspended.unwrap().contains("promote that one"));
}

/// Closes: a crash of the primary between the local write and the sending, with no record of the difference.
#[test]
fn r5_an_extent_is_durable_in_the_log_before_its_write_is_submitted_or_sent() {
    let mut world = World::in_sync(2);
    world.nodes[0].disk.held = true;
    let before = world.sent.len();
    world.write(0, 20 * MIB, 9, 4096);
    world.settle();
    let sent = world.sent[before..].iter().any(|(_, _, m)| matches!(m, Message::Write { .. }));
    assert!(!sent, "the log's record is not durable yet");
    world.nodes[0].disk.held = false;
    world.settle();
    // The write reaches the primary's disk only; then the power fails there.
    world.hold(0, 1, true);
    world.write(0, 24 * MIB, 8, 4096);
    world.settle();
    assert_eq!(world.nodes[0].disk.byte(24 * MIB), 8);
    world.crash(0, Keep::All);
    world.start(0);
    world.settle();
    assert!(world.replica(0).may_differ(id(1), 24 * MIB), "the restart finds the extent hot");
    world.assert_covered();
}

/// Closes: an extent that cools although a member may still lose its last write.
#[test]
fn r5_an_extent_cools_only_after_every_member_confirmed_a_later_flush() {
    let mut world = World::sized(2, 64 * MIB, 7);
    world.bring_in_sync();
    for extent in 0..7 {
        world.put(0, extent * 4 * MIB, 1);
    }
    assert_eq!(world.status(0).hot_extents, 7);
    world.nodes[1].disk.held = true;
    let eighth = world.write(0, 28 * MIB, 2, 4096);
    world.settle();
    assert_eq!(world.answer(0, eighth), None, "node 1 does not flush, so nothing cools");
    for extent in 0..7 {
        assert!(world.replica(0).may_differ(id(1), extent * 4 * MIB));
    }
    world.nodes[1].disk.held = false;
    world.settle();
    assert_eq!(world.answer(0, eighth), DONE);
}

/// Closes: a removed member whose unflushed writes nobody remembers.
#[test]
fn r5_a_removed_member_is_dirty_from_its_last_confirmed_flush() {
    let mut world = World::in_sync(3);
    world.put(0, 8 * MIB, 5);
    world.crash(2, Keep::Nothing);
    world.run(1500);
    assert_eq!(world.set(), [0, 1]);
    for node in 0..2 {
        assert!(world.replica(node).may_differ(id(2), 8 * MIB), "node {node} knows what node 2 may lack");
    }
    world.start(2);
    world.run(3000);
    world.assert_equal();
}

/// Closes: an attach held up on a link that was replaced since, which makes a target of what is recorded as a member: after the
/// primary's death nobody can be promoted.
#[test]
fn r5_an_attach_that_comes_late_over_a_replaced_link_changes_nothing() {
    for primary_dies in [true, false] {
        let mut world = World::in_sync(2);
        world.put(0, 0, 7);
        let generation = world.generation();
        let early = |message: &Message| {
            let target = matches!(message, Message::Attach { mode: AttachMode::Target, .. });
            target || matches!(message, Message::Challenge | Message::Hello(_))
        };
        let sent = world.sent.iter().filter(|(from, to, message)| (*from, *to) == (0, 1) && early(message));
        let mut messages: Vec<Message> = sent.map(|(_, _, message)| message.clone()).collect();
        let [Message::Challenge, Message::Hello(_), Message::Attach { number, .. }] = &mut messages[..]
        else {
            panic!("{messages:?} was sent to node 1 before it became a member");
        };
        // The one that went before it, over another link.
        *number -= 1;
        let link = LinkId(1_000);
        world.input(1, Input::LinkUp { link });
        for message in messages {
            world.input(1, Input::Received { link, message });
        }
        if primary_dies {
            world.crash(0, Keep::All);
            world.settle();
            assert!(world.nodes[1].promotable, "{}", world.dump());
            world.promote(1);
            world.run(3000);
            assert_eq!(world.get(1, 0), 7);
        } else {
            world.run(500);
            world.put(0, 0, 8);
            assert_eq!(world.generation(), generation, "nobody had to be removed");
            world.assert_equal();
        }
    }
}

/// Closes: members of one set that differ in a write that was never acknowledged, for ever.
#[test]
fn r6_open_windows_are_overwritten_before_the_first_request_is_served() {
    let mut world = World::in_sync(3);
    world.put(0, 0, 1);
    world.flush(0);
    // The write reaches node 2, not node 1; then the primary dies.
    world.hold(0, 1, true);
    let write = world.write(0, 0, 2, 4096);
    world.settle();
    assert_eq!(world.answer(0, write), None);
    assert_eq!((world.nodes[1].disk.byte(0), world.nodes[2].disk.byte(0)), (1, 2));
    world.crash(0, Keep::Nothing);
    world.promote(1);
    world.run(5000);
    assert_eq!(world.role(1), RoleName::Primary);
    assert_eq!(world.get(1, 0), 1);
    assert!(world.set().contains(&2), "node 2 was reconciled, not removed");
    assert_eq!(world.nodes[2].disk.byte(0), 1);
}

/// Closes: a silent member that is neither reconciled nor removed when the new primary serves.
#[test]
fn r6_a_member_that_is_not_reconciled_is_removed_first() {
    let mut world = World::in_sync(3);
    world.put(0, 0, 1);
    world.isolate(2);
    world.crash(0, Keep::All);
    world.promote(1);
    world.run(600);
    assert_ne!(world.role(1), RoleName::Primary);
    world.run(3000);
    assert_eq!(world.role(1), RoleName::Primary);
    assert_eq!(world.set(), [1]);
}

/// Closes: two secondaries hear nothing of each other, so that the one that is promoted throws out the other, which lives,
/// if its disk is faster than the network.
#[test]
fn r6_a_member_that_lives_stays_when_the_other_secondary_is_promoted() {
    let mut world = World::new(3);
    world.peer_silent = Millis(2000);
    world.bring_in_sync();
    world.put(0, 0, 1);
    world.run(5000);
    world.hold(2, 1, true);
    world.crash(0, Keep::All);
    world.promote(1);
    // The lease of node 0 is over, and what node 2 said to this promotion has not arrived.
    world.run(1200);
    assert!(world.set().contains(&2), "node 2 was heard of a moment ago");
    world.hold(2, 1, false);
    world.run(3000);
    assert_eq!(world.set(), [1, 2]);
    assert_eq!(world.events(1, |event| matches!(event, Event::ResyncDone { .. })), 0);
}

/// Closes: a returning replica whose own unsent writes nobody else knows of (drbd's crashed primary).
#[test]
fn r6_resync_covers_both_sides_dirty_records_and_hot_extents() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    world.hold(0, 1, true);
    world.write(0, 12 * MIB, 9, 4096);
    world.settle();
    world.crash(0, Keep::All);
    world.hold(0, 1, false);
    world.promote(1);
    world.run(3000);
    world.put(1, 16 * MIB, 4);
    world.start(0);
    world.run(3000);
    assert!(world.member(0));
    world.assert_equal();
    assert_eq!(world.nodes[0].disk.byte(12 * MIB), 0, "the tail that was never acknowledged is gone");
    let counters = world.status(1).counters;
    assert!(counters.resync_sent_bytes <= 3 * 4096);
    assert!(counters.resync_compared_bytes <= 16 * MIB, "only hot extents and dirty blocks are compared");
}

/// Closes: yesterday's copy of the disk, promoted or taken for current.
#[test]
fn r7_a_restored_old_image_is_reported_compared_in_full_and_never_promotable() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    world.flush(0);
    let yesterday = world.nodes[1].disk.clone();
    for round in 2..6 {
        world.put(0, 32 * MIB, round);
        world.flush(0);
    }
    world.run(300);
    world.crash(1, Keep::All);
    world.nodes[1].disk = yesterday;
    // Neither the dirty record nor the log of node 0 knows of this block.
    world.nodes[1].disk.damage(60 * MIB);
    world.cut(0, 1);
    world.start(1);
    world.run(300);
    assert_eq!(world.events(1, |event| matches!(event, Event::OldImage { .. })), 1);
    assert!(!world.nodes[1].promotable);
    world.heal(0, 1);
    world.run(4000);
    assert!(world.member(1));
    world.assert_equal();
    assert!(world.nodes[1].promotable, "compared in full, it is current again");
    assert!(world.status(0).counters.resync_compared_bytes >= 64 * MIB);
}

/// Closes: an image taken between the progress number and the data that it speaks for, later taken for current.
#[test]
fn r7_an_image_taken_while_a_flush_runs_and_without_its_data_looks_older_than_the_confirmed_flush() {
    let mut lacking = 0;
    for (node, steps) in (0..2).flat_map(|node| (0..24).map(move |steps| (node, steps))) {
        let mut world = World::in_sync(2);
        world.put(0, 0, 1);
        let flush = world.request(0, FrontOp::Flush);
        for _ in 0..steps {
            world.step();
        }
        let mut image = world.nodes[node].disk.clone();
        image.crash(Keep::Nothing, &mut world::Dice(1));
        world.settle();
        assert_eq!(world.answer(0, flush), DONE);
        world.crash(node, Keep::All);
        let lacks = image.byte(0) != 1;
        lacking += u32::from(lacks);
        world.nodes[node].disk = image;
        world.cut(0, 1);
        world.start(node);
        world.run(300);
        assert!(!(lacks && world.nodes[node].promotable), "node {node} after {steps} steps");
    }
    assert!(lacking > 4, "too few images lack the data: {lacking}");
}

/// Closes: numbers of different replicas that mean nothing to each other, so that after a restart of all an image is
/// preferred to the member that holds what was flushed since.
#[test]
fn r7_after_a_flush_the_progress_of_all_members_is_the_same_and_known_to_each_other() {
    let mut world = World::in_sync(3);
    for round in 0..5 {
        world.put(0, 0, round);
        world.flush(0);
    }
    let progress: Vec<u64> = (0..3).map(|node| world.status(node).progress).collect();
    assert!(progress[0] == progress[1] && progress[1] == progress[2], "{progress:?}");
    world.put(0, 0, 9);
    for node in 1..3 {
        let peers = world.status(node).peers;
        let primary = peers.iter().find(|peer| peer.replica == id(0)).unwrap();
        assert_eq!(primary.progress, progress[0], "node {node} can tell an older image of the primary");
    }
    world.run(20);
    for (node, reached) in progress.into_iter().enumerate() {
        assert_eq!(world.highest[&id(node)], reached, "the voters were told");
    }
}

/// Closes: restarts that count the progress up until an old image looks new.
#[test]
fn r7_restarts_without_a_ledger_do_not_make_an_old_image_look_newer() {
    let mut world = World::in_sync(2);
    let yesterday = world.nodes[1].disk.clone();
    for round in 2..6 {
        world.put(0, 32 * MIB, round);
        world.flush(0);
    }
    world.run(300);
    world.crash(1, Keep::All);
    world.nodes[1].disk = yesterday;
    world.isolate(1);
    for _ in 0..12 {
        world.start(1);
        world.run(50);
        world.crash(1, Keep::All);
    }
    world.start(1);
    world.rejoin(1);
    world.settle();
    assert_eq!(world.events(1, |event| matches!(event, Event::OldImage { .. })), 1);
}

/// Closes: an old image found by a peer while no voter remembers.
#[test]
fn r7_a_peer_that_has_seen_more_says_so() {
    let mut world = World::in_sync(2);
    let yesterday = world.nodes[1].disk.clone();
    for round in 2..6 {
        world.put(0, 32 * MIB, round);
        world.flush(0);
    }
    world.crash(1, Keep::All);
    world.nodes[1].disk = yesterday;
    world.highest.clear();
    world.start(1);
    world.run(4000);
    assert_eq!(world.events(0, |event| matches!(event, Event::OldImage { .. })), 1);
    assert_eq!(world.events(1, |event| matches!(event, Event::OldImage { .. })), 1);
    world.assert_equal();
}

/// Closes: a replica that restarted, taken for an old image because of what its last session had sent before it ended.
#[test]
fn r7_a_greeting_that_comes_late_from_an_ended_session_changes_nothing() {
    let mut world = World::in_sync(2);
    let sent = world.sent.iter().filter(|(from, to, _)| (*from, *to) == (1, 0));
    let greeting: Vec<Message> = sent
        .map(|(_, _, message)| message.clone())
        .filter(|message| matches!(message, Message::Challenge | Message::Hello(_)))
        .collect();
    let late = LinkId(1_000);
    world.input(0, Input::LinkUp { link: late });
    world.put(0, 0, 1);
    world.flush(0);
    world.crash(1, Keep::All);
    world.start(1);
    world.run(4000);
    assert!(world.member(1));
    let generation = world.generation();
    for message in greeting {
        world.input(0, Input::Received { link: late, message });
    }
    world.put(0, 0, 2);
    world.run(1000);
    assert_eq!(world.events(0, |event| matches!(event, Event::OldImage { .. })), 0);
    assert_eq!(world.generation(), generation, "nobody had to be removed");
    world.assert_equal();
}

/// Closes: two copies taken for equal because both were empty when they met; one was written since.
#[test]
fn r5_a_copy_that_was_written_after_it_greeted_is_compared() {
    let mut world = World::new(3);
    world.cut(0, 2);
    for node in 0..3 {
        world.start(node);
    }
    world.settle();
    let first = Member { replica: id(0), session: world.nodes[0].session };
    world.change(&GroupChange::Create { group: GROUP, first }).unwrap();
    world.promote(0);
    world.run(1000);
    assert_eq!(world.set(), [0, 1]);
    // Node 2 takes part in the stream, but cannot become a member; a write reaches it alone.
    world.quorum(false);
    world.heal(0, 2);
    world.run(300);
    world.hold(0, 1, true);
    world.write(0, 0, 9, 4096);
    world.settle();
    assert_eq!((world.nodes[1].disk.byte(0), world.nodes[2].disk.byte(0)), (0, 9));
    world.crash(0, Keep::All);
    world.hold(0, 1, false);
    world.quorum(true);
    world.promote(1);
    world.run(4000);
    assert_eq!(world.set(), [1, 2]);
    assert_eq!(world.nodes[1].disk.byte(0), world.nodes[2].disk.byte(0));
}

/// Closes: an error that programs see although another copy can be read.
#[test]
fn r1_a_primary_that_cannot_read_leaves_the_service_to_a_copy_that_can() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 7);
    world.nodes[0].disk.bad.insert(0);
    let read = world.request(0, FrontOp::Read { offset: 0, length: 4096 });
    world.settle();
    assert_eq!(world.answer(0, read), None);
    assert_eq!(world.role(0), RoleName::Failed);
    world.promote(1);
    world.run(3000);
    assert_eq!(world.get(1, 0), 7);
    // Started again, it is compared in full and gets the sector from the other copy.
    world.crash(0, Keep::All);
    world.start(0);
    world.run(5000);
    assert!(world.member(0) && world.nodes[0].disk.bad.is_empty());
    world.quorum(false);
    world.nodes[1].disk.bad.insert(0);
    let read = world.request(1, FrontOp::Read { offset: 0, length: 4096 });
    world.settle();
    assert_eq!(world.answer(1, read), Some(Err(FrontError::Io)), "nobody else can answer");
    assert_eq!(world.role(1), RoleName::Primary);
}

/// Closes: a target that starts again and again because of a sector which the source could replace.
#[test]
fn r5_a_target_takes_what_it_cannot_read_from_its_source() {
    let mut world = World::in_sync(2);
    world.crash(1, Keep::All);
    world.run(1500);
    world.put(0, 0, 9);
    world.nodes[1].disk.bad.insert(0);
    world.start(1);
    world.run(3000);
    assert!(world.member(1));
    world.assert_equal();
}

/// Closes: a read that is never answered while writes into its range go on.
#[test]
fn a_read_is_answered_while_writes_into_its_range_go_on() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    let writes: Vec<_> = (0..60).map(|n| world.write(0, 0, n, 4096)).collect();
    let read = world.request(0, FrontOp::Read { offset: 0, length: 4096 });
    while world.answer(0, read).is_none() {
        assert!(world.step(), "{}", world.dump());
    }
    let before = writes.iter().filter(|id| world.answer(0, **id).is_some()).count();
    assert!(before < 20, "{before} writes went before");
    world.settle();
    assert!(writes.iter().all(|id| world.answer(0, *id) == DONE));
}

/// Closes: a voter with an old disk that promotes by a ledger long overtaken.
#[test]
fn r8_an_older_ledger_is_refused() {
    let mut world = World::in_sync(2);
    world.crash(1, Keep::All);
    world.run(2000);
    assert_eq!(world.set(), [0]);
    let mut old = world.make_view(0);
    let entry = old.entry.as_mut().unwrap();
    entry.generation.0 -= 1;
    entry.primary = None;
    old.index.0 -= 1;
    world.input(0, Input::Ledger(old));
    world.settle();
    assert_eq!(world.role(0), RoleName::Primary, "nothing is taken from an older ledger");
    assert_eq!(world.status(0).generation, world.generation().0);
}

/// Closes: a demoted ledger epoch that comes back with higher numbers.
#[test]
fn r8_a_newer_epoch_replaces_everything_of_an_older_one() {
    let mut world = World::in_sync(2);
    world.epoch = 2;
    let change = GroupChange::SetMembers {
        group: GROUP,
        expect: world.generation(),
        proposer: world.entry.as_ref().unwrap().primary.unwrap(),
        in_sync: world.entry.as_ref().unwrap().in_sync.clone(),
    };
    world.change(&change).unwrap();
    world.settle();
    let mut old = world.make_view(0);
    old.epoch.0 = 1;
    old.entry.as_mut().unwrap().generation.0 += 10;
    old.entry.as_mut().unwrap().primary = None;
    world.input(0, Input::Ledger(old));
    assert_eq!(world.role(0), RoleName::Primary);
}

/// Closes: a primary that stops although everyone it needs is there, and one that goes on although not.
#[test]
fn r10_without_a_ledger_the_set_goes_on_and_losing_a_member_suspends_with_the_reason() {
    let mut world = World::in_sync(2);
    world.quorum(false);
    world.run(3000);
    world.put(0, 0, 3);
    assert_eq!(world.get(0, 0), 3);
    world.crash(1, Keep::All);
    world.run(1500);
    let write = world.write(0, 0, 4, 4096);
    world.run(100);
    assert_eq!(world.answer(0, write), None);
    let why = world.status(0).suspended.unwrap();
    assert!(why.contains(&id(1).to_string()) && why.contains("quorum"), "{why}");
    assert_eq!(world.events(0, |event| matches!(event, Event::Suspended { .. })), 1);
    world.quorum(true);
    world.run(300);
    assert_eq!(world.answer(0, write), DONE);
    assert_eq!(world.events(0, |event| matches!(event, Event::Resumed)), 1);
    world.quorum(false);
    world.run(3000);
    world.put(0, 0, 5);
}

/// Closes: a cut-off primary that answers reads while its successor already writes.
#[test]
fn r11_reads_are_answered_only_under_a_lease_granted_by_every_other_member() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 3);
    world.isolate(0);
    world.run(1000);
    assert!(world.nodes[0].lease_until <= world.now);
    let read = world.request(0, FrontOp::Read { offset: 0, length: 4096 });
    world.run(1000);
    assert_eq!(world.answer(0, read), None);
}

/// Closes: the successor that serves while the predecessor's lease is still valid.
#[test]
fn r11_a_candidate_waits_out_the_lease_it_granted_longer_by_the_drift() {
    // A member is removed sooner than a lease ends, so that only the waiting keeps the two apart.
    let mut world = World::new(2);
    world.peer_silent = Millis(200);
    world.bring_in_sync();
    let (ends, first) = world.succession();
    assert_eq!(world.role(1), RoleName::Primary);
    assert!(first > ends.after(Millis(5)), "the lease ends at {ends:?}, the successor serves at {first:?}");
}

/// Closes: the suspended request that hangs an unmount, and the deposed primary that rejoins with its device standing.
#[test]
fn r12_a_deposed_primary_holds_then_fails_then_returns_as_secondary() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    world.isolate(0);
    let write = world.write(0, 0, 2, 4096);
    world.run(1000);
    world.promote(1);
    world.run(3000);
    world.put(1, 4096, 7);
    assert_eq!(world.answer(0, write), None);
    world.rejoin(0);
    world.run(300);
    assert_eq!(world.role(0), RoleName::Deposed);
    assert!(world.nodes[0].lease_until <= world.now);
    assert_eq!(world.answer(0, write), None, "held until the programs are killed");
    world.command(0, Command::FailSuspended);
    assert_eq!(world.answer(0, write), Some(Err(FrontError::NotPrimary)));
    world.run(3000);
    assert!(!world.member(0), "its device still stands");
    world.command(0, Command::DeviceGone);
    world.run(3000);
    assert!(world.member(0));
    world.assert_equal();
    assert_eq!(world.nodes[0].disk.byte(0), 1, "its tail of the old generation is gone");
}

/// Closes: a primary cut off from its ledger only, deposed, and still served by a member that does not know.
#[test]
fn r12_a_newer_generation_learned_from_a_peer_ends_the_reign_at_once() {
    let mut world = World::in_sync(2);
    world.nodes[0].hears_ledger = false;
    world.promote(1);
    world.run(200);
    assert_eq!(world.role(0), RoleName::Deposed);
    assert_eq!(world.events(0, |event| matches!(event, Event::Deposed { .. })), 1);
}

/// Closes: the cut between primary and secondary alone; the primary stays and the secondary follows again.
#[test]
fn r13_in_a_cut_triangle_the_primary_stays() {
    let mut world = World::in_sync(2);
    world.cut(0, 1);
    world.run(2000);
    assert_eq!((world.role(0), world.set()), (RoleName::Primary, vec![0]));
    world.put(0, 0, 4);
    world.heal(0, 1);
    world.run(2000);
    assert!(world.member(1));
    world.assert_equal();
}

/// Closes: a short break of the link that costs a removal and a resync.
#[test]
fn r13_a_short_break_resumes_the_stream_where_it_broke() {
    let mut world = World::in_sync(2);
    world.dice = Some(world::Dice(5));
    let generation = world.generation();
    for round in 1..20u8 {
        let writes: Vec<_> = (0..4).map(|block| world.write(0, block * 4096, round, 4096)).collect();
        for _ in 0..round {
            world.step();
        }
        world.cut(0, 1);
        world.heal(0, 1);
        world.run(100);
        assert!(writes.iter().all(|write| world.answer(0, *write) == DONE), "round {round}");
    }
    assert_eq!(world.generation(), generation);
    world.assert_equal();
}

/// The device exists only while the replica is primary: the events that make and destroy it.
#[test]
fn r17_a_planned_hand_over_serves_nobody_between_and_loses_nothing() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    world.command(0, Command::Demote);
    world.run(200);
    assert_eq!(world.entry.as_ref().unwrap().primary, None);
    assert_eq!(world.events(0, |event| matches!(event, Event::Demoted)), 1);
    let late = world.write(0, 0, 2, 4096);
    assert_eq!(world.answer(0, late), Some(Err(FrontError::NotPrimary)));
    world.promote(1);
    world.run(3000);
    assert_eq!((world.role(1), world.get(1, 0)), (RoleName::Primary, 1));
    assert_eq!(world.set(), [0, 1], "nobody had to be removed");
}

/// Closes: a hand-over that hangs, or acknowledges, because the ledger could not decide when it was asked for.
#[test]
fn r17_a_planned_hand_over_without_a_ledger_answers_nobody_and_ends_when_the_ledger_returns() {
    for member_lost in [false, true] {
        let mut world = World::in_sync(2);
        world.put(0, 0, 7);
        world.quorum(false);
        if member_lost {
            world.cut(0, 1);
        }
        let open = world.write(0, 4096, 8, 4096);
        world.command(0, Command::Demote);
        world.run(20_000);
        let late = world.write(0, 0, 9, 4096);
        world.settle();
        assert_eq!(world.answer(0, late), Some(Err(FrontError::NotPrimary)));
        assert_eq!(world.events(0, |event| *event == Event::Demoted), 0);
        assert_eq!(world.answer(0, open).is_none(), member_lost);
        world.quorum(true);
        world.run(3000);
        assert_eq!(world.events(0, |event| *event == Event::Demoted), 1, "{}", world.dump());
        assert_eq!(world.entry.as_ref().unwrap().primary, None);
        world.rejoin(0);
        world.promote(0);
        world.run(3000);
        assert_eq!(world.events(0, |event| matches!(event, Event::Serve { .. })), 2);
        assert_eq!((world.get(0, 0), world.get(0, 4096)), (7, 8));
    }
}

/// A planned move does not wait for a lease that its predecessor gave up.
#[test]
fn r11_a_lease_given_up_need_not_be_waited_out() {
    let mut world = World::in_sync(2);
    world.command(0, Command::Demote);
    world.run(100);
    world.promote(1);
    world.run(100);
    assert_eq!(world.role(1), RoleName::Primary, "{}", world.dump());
}

/// Closes: a failed fsync whose retry succeeds, although the data is gone.
#[test]
fn r2_a_failed_flush_poisons_the_replica_and_the_set_goes_on_without_it() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    world.nodes[1].disk.flush_fails = true;
    let flush = world.request(0, FrontOp::Flush);
    world.settle();
    assert_eq!(world.role(1), RoleName::Failed);
    assert!(!world.nodes[1].promotable);
    assert_eq!(world.answer(0, flush), None);
    world.run(2000);
    assert_eq!((world.set(), world.answer(0, flush)), (vec![0], DONE));
}

#[test]
fn r2_a_primary_whose_disk_fails_holds_its_requests_and_gives_up_the_lease() {
    let mut world = World::in_sync(2);
    world.nodes[0].disk.flush_fails = true;
    let flush = world.request(0, FrontOp::Flush);
    world.settle();
    assert_eq!((world.role(0), world.answer(0, flush)), (RoleName::Failed, None));
    assert!(world.nodes[0].lease_until <= world.now);
    world.command(0, Command::FailSuspended);
    assert_eq!(world.answer(0, flush), Some(Err(FrontError::Io)));
}

#[test]
fn trim_and_large_writes_are_the_same_everywhere() {
    let mut world = World::in_sync(2);
    let data = Bytes::from(vec![3; 9 << 20]);
    let write = world.request(0, FrontOp::Write { offset: 3 * MIB + 512, data, fua: false });
    let trim = world.request(0, FrontOp::Trim { offset: 4 * MIB - 512, length: 5 * MIB });
    world.settle();
    assert_eq!((world.answer(0, write), world.answer(0, trim)), (DONE, DONE));
    assert_eq!(world.nodes[1].disk.byte(4 * MIB), 0);
    assert_eq!(world.nodes[1].disk.byte(4 * MIB - 1024), 3);
    world.assert_equal();
    let outside = world.request(0, FrontOp::Trim { offset: 64 * MIB, length: 512 });
    assert_eq!(world.answer(0, outside), Some(Err(FrontError::Range)));
}

#[test]
fn quiesce_holds_writes_and_leaves_the_copies_equal() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    world.command(0, Command::Quiesce);
    let held = world.write(0, 0, 2, 4096);
    world.settle();
    assert_eq!(world.events(0, |event| matches!(event, Event::Quiesced)), 1);
    assert_eq!(world.answer(0, held), None);
    world.assert_equal();
    world.command(0, Command::Resume);
    assert_eq!(world.answer(0, held), DONE);
}

#[test]
fn every_member_restarted_the_one_with_the_highest_progress_serves_all_that_was_flushed() {
    let mut world = World::in_sync(3);
    world.put(0, 0, 1);
    world.flush(0);
    for node in 0..3 {
        world.crash(node, Keep::Torn);
    }
    for node in 0..3 {
        world.start(node);
    }
    world.run(200);
    world.promote(2);
    world.run(5000);
    assert_eq!((world.role(2), world.get(2, 0)), (RoleName::Primary, 1));
    assert_eq!(world.set(), [0, 1, 2]);
    world.assert_equal();
}

#[test]
fn a_resync_under_writes_ends_with_equal_copies() {
    let mut world = World::in_sync(2);
    world.cut(0, 1);
    world.run(1500);
    for block in 0..200u64 {
        world.put(0, block * 64 * 4096, 1);
    }
    world.dice = Some(world::Dice(11));
    world.heal(0, 1);
    for round in 0..200u8 {
        world.write(0, u64::from(round) * 64 * 4096, round, 4096);
        for _ in 0..20 {
            world.step();
        }
    }
    world.run(3000);
    assert!(world.member(1));
    world.assert_equal();
    assert_eq!(world.events(0, |event| matches!(event, Event::ResyncDone { target: ReplicaId(2), .. })), 2);
}

/// A sequential writer finds its next extents hot: neither side's log is on the way of a write.
#[test]
fn r5_the_log_runs_ahead_of_a_sequential_writer_on_both_sides() {
    let mut world = World::sized(2, 512 * MIB, 64);
    world.bring_in_sync();
    let logged = |world: &World| [0, 1].map(|node| world.status(node).counters.log_transactions);
    let before = logged(&world);
    let mut cold = [0, 0];
    for at in 0..256 {
        // In sync nothing is in the dirty records: what may differ is hot.
        cold[0] += u32::from(!world.replica(0).may_differ(id(1), at * MIB));
        cold[1] += u32::from(!world.replica(1).may_differ(id(0), at * MIB));
        world.put(0, at * MIB, 1);
    }
    let after = logged(&world);
    for node in 0..2 {
        assert!(after[node] - before[node] <= 12, "one for eight of the 64 extents: {before:?} {after:?}");
        assert!(cold[node] <= 3, "{cold:?} writes waited for a log");
    }
}

/// One long write is on its way to the peer's disk while its rest is still being sent.
#[test]
fn a_long_write_goes_in_parts_that_do_not_wait_for_each_other() {
    let mut world = World::in_sync(2);
    world.put(0, 0, 1);
    world.hold(1, 0, true);
    let from = world.sent.len();
    let write = world.write(0, 0, 2, 1 << 20);
    world.settle();
    let sent = world.sent[from..].iter().filter(|(_, _, m)| matches!(m, Message::Write { .. })).count();
    assert_eq!((sent, world.answer(0, write)), (4, None), "all are sent before the first is confirmed");
    world.hold(1, 0, false);
    world.settle();
    assert_eq!(world.answer(0, write), DONE);
}
