//! One directed scenario per rule of replication; each name starts with its rule.

mod world;

use anshin_mirror::{Event, FrontError, FrontOp, RoleName};
use world::disk::Keep;
use world::{MIB, World};

/// A group is made, one replica is promoted, others join without a comparison as nothing was ever written.
#[test]
fn r1_the_ledger_records_the_set_before_it_matters() {
    let mut world = World::in_sync(3);
    assert_eq!(world.role(0), RoleName::Primary);
    let generation = world.generation();
    world.put(0, 0, 7);
    world.flush(0);
    assert_eq!(world.get(0, 0), 7);
    assert_eq!(world.generation(), generation, "no write causes ledger traffic");
    world.assert_equal();
}
