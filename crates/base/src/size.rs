//! Sizes in bytes, as people write and read them.

use crate::problem::Problem;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A number of bytes. Written with binary units: `100G` is 100 · 2^30.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, Debug)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u32); 6] = [("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10), ("", 0)];

impl FromStr for ByteSize {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = || {
            Problem::new("size-format", format!("`{text}` is not a size"))
                .hint("write a whole number with K, M, G, T or P, for example 100G")
        };
        let upper = text.trim().to_ascii_uppercase();
        let upper = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
        let digits = upper.find(|c: char| !c.is_ascii_digit()).unwrap_or(upper.len());
        let number: u64 = upper[..digits].parse().map_err(|_| bad())?;
        let shift = UNITS.iter().find(|(name, _)| *name == &upper[digits..]).ok_or_else(bad)?.1;
        let bytes = number.checked_mul(1 << shift).ok_or_else(bad)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, shift) = UNITS.iter().find(|(_, shift)| self.0 >= 1 << shift).unwrap_or(&("", 0));
        let whole = self.0 >> shift;
        let tenth = if *shift == 0 { 0 } else { ((self.0 - (whole << shift)) * 10) >> shift };
        match (name.is_empty(), tenth) {
            (true, _) => write!(f, "{whole} B"),
            (_, 0) => write!(f, "{whole} {name}iB"),
            _ => write!(f, "{whole}.{tenth} {name}iB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_units() {
        assert_eq!("100G".parse::<ByteSize>().unwrap(), ByteSize(100 << 30));
        assert_eq!("4 k".replace(' ', "").parse::<ByteSize>().unwrap(), ByteSize(4096));
        assert_eq!("512".parse::<ByteSize>().unwrap(), ByteSize(512));
        assert_eq!("1GiB".parse::<ByteSize>().unwrap(), ByteSize(1 << 30));
        for bad in ["", "G", "1.5G", "-1", "99999999P", "1X"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_with_one_decimal() {
        assert_eq!(ByteSize(100 << 30).to_string(), "100 GiB");
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize(7).to_string(), "7 B");
    }
}
