//! What must hold, one file each; the numbers are those of the invariants that the project asserts everywhere.

pub mod i1;
pub mod i10;
pub mod i11;
pub mod i2;
pub mod i3;
pub mod i4;
pub mod i5;
pub mod i7;
pub mod i8;
pub mod ledger;

/// Every oracle.
#[derive(Debug, Default)]
pub struct Oracles {
    /// Acknowledged writes stay readable.
    pub i1: i1::I1,
    /// One writer per generation.
    pub i2: i2::I2,
    /// Differences are covered.
    pub i3: i3::I3,
    /// Dirty records shrink only on proof.
    pub i4: i4::I4,
    /// Nothing inconsistent is served.
    pub i5: i5::I5,
    /// Reads return what was written.
    pub i7: i7::I7,
    /// Everything converges.
    pub i8: i8::I8,
    /// Every crash re-opens.
    pub i10: i10::I10,
    /// One address.
    pub i11: i11::I11,
    /// The ledger itself: elections, logs, commits, reads.
    pub ledger: ledger::Ledger,
}

/// The sentences of an oracle that was violated; the first is what matters.
#[derive(Debug, Default)]
pub struct Verdict(Vec<String>);

impl Verdict {
    /// Notes a violation.
    pub fn violate(&mut self, what: &str) {
        self.0.push(what.to_owned());
    }
}

macro_rules! verdict {
    ($name:ident, $label:literal) => {
        impl $name {
            /// Notes a violation.
            pub fn violate(&mut self, what: &str) {
                self.verdict.violate(&format!(concat!($label, ": {}"), what));
            }
        }

        impl crate::oracles::Named for $name {
            fn verdict(&self) -> &crate::oracles::Verdict {
                &self.verdict
            }
        }
    };
}
pub(crate) use verdict;

/// An oracle with a verdict.
pub trait Named {
    /// What it found.
    fn verdict(&self) -> &Verdict;
}

impl Oracles {
    fn all(&self) -> [&dyn Named; 10] {
        [
            &self.i1,
            &self.i2,
            &self.i3,
            &self.i4,
            &self.i5,
            &self.i7,
            &self.i8,
            &self.i10,
            &self.i11,
            &self.ledger,
        ]
    }

    /// Everything found.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.all().iter().flat_map(|oracle| oracle.verdict().0.iter().cloned()).collect()
    }

    /// Whether anything was found.
    #[must_use]
    pub fn violated(&self) -> bool {
        self.all().iter().any(|oracle| !oracle.verdict().0.is_empty())
    }
}
