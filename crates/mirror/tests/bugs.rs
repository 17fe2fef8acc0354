//! Proves the prover: each rule break that can be switched on is found by a directed scenario or by random histories.
#![cfg(feature = "bugs")]

mod histories;
mod world;

use histories::history;
use world::Bugs;

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
    acknowledge_alone cool_early skip_reconciliation skip_grant_wait clear_dirty_at_connect accept_old_session
    forget_peer_hot complete_before_removal write_before_log
}
