//! A disk that does not end what it was given.

use super::*;

/// Three voters that have elected the first.
fn led_by_the_first(now: &mut Mono) -> Vec<Voter> {
    let mut voters = Voter::site([1, 2, 3]);
    pass(&mut voters, now, 3_000);
    assert_eq!(voters[0].engine.role(), Role::Leader);
    voters
}

fn site_name(voter: &Voter) -> Option<String> {
    voter.engine.state().site.as_ref().map(|site| site.name.clone())
}

#[test]
fn a_leader_whose_write_does_not_end_hands_leadership_on_and_is_not_quorate_meanwhile() {
    let mut now = Mono(0);
    let mut voters = led_by_the_first(&mut now);
    voters[0].hangs = true;
    voters[1].set(now, 1, "prod");
    pass(&mut voters, &mut now, 1_000);
    assert_eq!(site_name(&voters[0]), None, "it applies nothing that is not on its disk");
    assert!(voters[0].engine.quorate(), "too early to judge");
    pass(&mut voters, &mut now, 1_500);
    assert!(!voters[0].engine.quorate(), "what it shows is the past");
    pass(&mut voters, &mut now, 2_500);
    let leader = |voter: &Voter| voter.engine.role() == Role::Leader;
    assert!(!leader(&voters[0]) && (leader(&voters[1]) || leader(&voters[2])));
    voters[2].set(now, 2, "again");
    let seen = pass(&mut voters, &mut now, 500);
    assert!(matches!(outcome(&seen, 2), Some(Outcome::Refused(_))), "decided: the site has a name");
    assert_eq!(site_name(&voters[1]).as_deref(), Some("prod"));
    for _ in 0..20 {
        pass(&mut voters, &mut now, 500);
        assert!(!leader(&voters[0]), "leadership comes back to it only when it has caught up");
        assert!(!voters[0].engine.quorate() && site_name(&voters[0]).is_none());
    }
}

#[test]
fn a_disk_that_answers_again_brings_its_voter_back() {
    let mut now = Mono(0);
    let mut voters = led_by_the_first(&mut now);
    voters[2].hangs = true;
    voters[0].set(now, 1, "prod");
    pass(&mut voters, &mut now, 20_000);
    // One late answer says nothing of the next write.
    let batch = voters[2].unanswered.take().unwrap();
    voters[2].handle(now, Input::DiskDone { batch, durable: true });
    assert!(voters[2].unanswered.is_some(), "it tries the disk although nothing is to be written");
    assert!(!voters[2].engine.quorate());
    voters[2].hangs = false;
    let batch = voters[2].unanswered.take().unwrap();
    voters[2].handle(now, Input::DiskDone { batch, durable: true });
    pass(&mut voters, &mut now, 1_000);
    let batch = voters[2].unanswered.take();
    assert_eq!(batch, None);
    assert!(voters[2].engine.quorate());
    assert_eq!(site_name(&voters[2]).as_deref(), Some("prod"));
}

#[test]
fn only_a_voter_that_answers_and_holds_everything_is_fit_to_lead() {
    let mut now = Mono(0);
    let mut voters = led_by_the_first(&mut now);
    pass(&mut voters, &mut now, 50);
    voters[1].hangs = true;
    voters[0].set(now, 1, "prod");
    pass(&mut voters, &mut now, 2_050);
    assert!(!voters[0].engine.fit_to_lead(VoterId(2)));
    assert!(voters[0].engine.fit_to_lead(VoterId(3)));
    assert!(!voters[0].engine.fit_to_lead(VoterId(1)), "that is itself");
}
