//! How much a resource wants a node.

use std::fmt;
use std::ops::{Add, AddAssign, Neg};

/// A preference between −1,000,000 ("never") and 1,000,000 ("by all means"). Sums stay inside these bounds, and
/// "never" wins over everything, so that one ban cannot be outweighed by any number of wishes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Score(i32);

impl Score {
    /// No preference.
    pub const ZERO: Self = Self(0);
    /// "By all means".
    pub const INFINITY: Self = Self(1_000_000);
    /// "Never".
    pub const NEVER: Self = Self(-1_000_000);

    /// The nearest score to `value`.
    #[must_use]
    pub fn new(value: i64) -> Self {
        Self(value.clamp(-1_000_000, 1_000_000) as i32)
    }

    /// The number behind the score.
    #[must_use]
    pub fn value(self) -> i32 {
        self.0
    }

    /// True for "never".
    #[must_use]
    pub fn is_never(self) -> bool {
        self == Self::NEVER
    }

    /// True for "by all means" and for "never".
    #[must_use]
    pub fn is_mandatory(self) -> bool {
        self.0.abs() == 1_000_000
    }

    /// Reads `INFINITY`, `-INFINITY`, `red`, `yellow`, `green` or an integer of any size.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "INFINITY" | "+INFINITY" | "infinity" => Some(Self::INFINITY),
            "-INFINITY" | "-infinity" | "red" => Some(Self::NEVER),
            "green" | "yellow" => Some(Self::ZERO),
            other => {
                let (digits, negative) = match other.as_bytes().first()? {
                    b'-' => (&other[1..], true),
                    b'+' => (&other[1..], false),
                    _ => (other, false),
                };
                let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
                if end == 0 {
                    return None;
                }
                let size = digits[..end].parse::<i64>().unwrap_or(i64::MAX);
                Some(Self::new(if negative { -size } else { size }))
            }
        }
    }

    /// This score weighted by `factor` as a fraction of INFINITY, rounded half away from zero.
    #[must_use]
    pub fn scaled(self, factor: Self) -> Self {
        if factor.is_mandatory() {
            return if factor.0 > 0 { self } else { -self };
        }
        let product = i64::from(self.0) * i64::from(factor.0);
        let half = if product < 0 { -500_000 } else { 500_000 };
        Self::new((product + half) / 1_000_000)
    }
}

impl Add for Score {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        if self.is_never() || other.is_never() {
            Self::NEVER
        } else if self == Self::INFINITY || other == Self::INFINITY {
            Self::INFINITY
        } else {
            Self::new(i64::from(self.0) + i64::from(other.0))
        }
    }
}

impl AddAssign for Score {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Neg for Score {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::INFINITY => f.write_str("INFINITY"),
            Self::NEVER => f.write_str("-INFINITY"),
            Self(value) => write!(f, "{value}"),
        }
    }
}

impl fmt::Debug for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_wins_over_every_wish() {
        assert_eq!(Score::INFINITY + Score::NEVER, Score::NEVER);
        assert_eq!(Score::new(5) + Score::INFINITY, Score::INFINITY);
        assert_eq!(Score::new(900_000) + Score::new(900_000), Score::INFINITY);
    }

    #[test]
    fn scores_are_read_as_administrators_write_them() {
        assert_eq!(Score::parse("-INFINITY"), Some(Score::NEVER));
        assert_eq!(Score::parse("+7"), Some(Score::new(7)));
        assert_eq!(Score::parse("99999999999999999999"), Some(Score::INFINITY));
        assert_eq!(Score::parse("many"), None);
    }

    #[test]
    fn a_weighted_score_is_rounded_to_the_nearest_integer() {
        assert_eq!(Score::new(10).scaled(Score::new(500_000)), Score::new(5));
        assert_eq!(Score::new(1).scaled(Score::new(400_000)), Score::ZERO);
        assert_eq!(Score::new(-10).scaled(Score::NEVER), Score::new(10));
    }
}
