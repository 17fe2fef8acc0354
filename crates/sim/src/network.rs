//! Who reaches whom, and how quickly.

use crate::{
    rng::Rng,
    world::{At, MS},
};

/// Every directed pair of nodes.
#[derive(Clone, Debug)]
pub struct Network {
    nodes: usize,
    cut: Vec<bool>,
    /// Usual delay in nanoseconds.
    delay: u64,
    /// In a thousand: messages between voters that are lost.
    pub loss_permille: u64,
    /// In a thousand: messages that take far longer.
    pub slow_permille: u64,
}

impl Network {
    /// A whole network.
    #[must_use]
    pub fn new(nodes: usize, rng: &mut Rng) -> Self {
        let delay = rng.between(50_000, 2 * MS);
        Self { nodes, cut: vec![false; nodes * nodes], delay, loss_permille: 0, slow_permille: 5 }
    }

    /// Cuts or mends one direction.
    pub fn set_cut(&mut self, from: At, to: At, cut: bool) {
        self.cut[from * self.nodes + to] = cut;
    }

    /// Mends everything.
    pub fn mend(&mut self) {
        self.cut.fill(false);
        self.loss_permille = 0;
    }

    /// Whether messages pass directly.
    #[must_use]
    pub fn direct(&self, from: At, to: At) -> bool {
        !self.cut[from * self.nodes + to]
    }

    /// Whether nothing is cut and no message gets lost.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.loss_permille == 0 && !self.cut.contains(&true)
    }

    /// A delay for one message.
    pub fn latency(&self, rng: &mut Rng) -> u64 {
        let usual = self.delay / 2 + rng.below(self.delay);
        if rng.permille(self.slow_permille) { usual + rng.below(300 * MS) } else { usual }
    }
}
