//! What a line does to the bytes that pass (pure).

use crate::control::number;
use crate::error::{Result, refuse};
use crate::rng::Rng;
use std::time::Duration;

/// Direction through the line: up is from the caller to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the caller to the target.
    Up,
    /// From the target to the caller.
    Down,
}

/// The state of one line.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Time that everything takes to cross, each way.
    pub delay: Duration,
    /// Up to this much more, at random.
    pub jitter: Duration,
    /// Bytes per second, each way; 0 means unlimited.
    pub rate: u64,
    /// Nothing moves from caller to target, nothing is closed.
    pub stalled_up: bool,
    /// Nothing moves from target to caller, nothing is closed.
    pub stalled_down: bool,
    /// New connections are refused and existing ones closed.
    pub cut: bool,
    /// Connections made before this number of resets are answered with a reset.
    pub resets: u64,
    /// Random bytes to be inserted before the next piece towards the target.
    pub garbage_up: u64,
    /// Random bytes to be inserted before the next piece towards the caller.
    pub garbage_down: u64,
    rng: Rng,
}

impl Rules {
    /// A faithful line; `seed` decides jitter and garbage to come.
    pub fn new(seed: u64) -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate: 0,
            stalled_up: false,
            stalled_down: false,
            cut: false,
            resets: 0,
            garbage_up: 0,
            garbage_down: 0,
            rng: Rng::new(seed),
        }
    }

    /// True while nothing moves in this direction.
    pub fn stalled(&self, direction: Direction) -> bool {
        match direction {
            Direction::Up => self.stalled_up,
            Direction::Down => self.stalled_down,
        }
    }

    /// How long a piece of `bytes` occupies the line, and how long it then travels.
    pub fn crossing(&mut self, bytes: usize) -> (Duration, Duration) {
        let jitter = u64::try_from(self.jitter.as_micros()).unwrap_or(u64::MAX);
        let extra = if jitter == 0 { 0 } else { self.rng.below(jitter) };
        let transfer = (bytes as u64 * 1_000_000).checked_div(self.rate).unwrap_or(0);
        (Duration::from_micros(transfer), self.delay + Duration::from_micros(extra))
    }

    /// Random bytes to insert now in this direction; empty almost always.
    pub fn take_garbage(&mut self, direction: Direction) -> Vec<u8> {
        let wanted = match direction {
            Direction::Up => std::mem::take(&mut self.garbage_up),
            Direction::Down => std::mem::take(&mut self.garbage_down),
        };
        (0..wanted.min(1 << 20)).map(|_| self.rng.bits() as u8).collect()
    }

    /// One command of the control socket.
    pub fn command(&mut self, words: &[&str]) -> Result<String> {
        let value = words.get(1);
        match words.first().copied() {
            Some("delay") => self.delay = Duration::from_millis(number(value, "milliseconds")?),
            Some("jitter") => self.jitter = Duration::from_millis(number(value, "milliseconds")?),
            Some("rate") => self.rate = number(value, "bytes per second")?,
            Some("cut") => self.cut = true,
            Some("reset") => self.resets += 1,
            Some(verb @ ("stall" | "flow")) => match value.copied() {
                Some("up") => self.stalled_up = verb == "stall",
                Some("down") => self.stalled_down = verb == "stall",
                _ => return refuse(format!("{verb} up or {verb} down")),
            },
            Some("garbage") => {
                let count = number(words.get(2), "how many bytes")?;
                match value.copied() {
                    Some("up") => self.garbage_up = count,
                    Some("down") => self.garbage_down = count,
                    _ => return refuse("garbage up N or garbage down N"),
                }
            }
            Some("heal") => *self = Self { rng: self.rng.clone(), resets: self.resets, ..Self::new(0) },
            _ => {
                return refuse(
                    "commands: delay MS, jitter MS, rate BYTES, stall|flow up|down, cut, reset, garbage up|down N, heal",
                );
            }
        }
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_occupies_the_line_for_its_share_of_the_rate_and_travels_the_delay() {
        let mut rules = Rules::new(1);
        assert_eq!(rules.crossing(1000), (Duration::ZERO, Duration::ZERO));
        rules.command(&["delay", "20"]).unwrap();
        rules.command(&["rate", "1000000"]).unwrap();
        assert_eq!(rules.crossing(500_000), (Duration::from_millis(500), Duration::from_millis(20)));
    }

    #[test]
    fn garbage_is_inserted_once_and_only_in_its_direction() {
        let mut rules = Rules::new(1);
        rules.command(&["garbage", "down", "7"]).unwrap();
        assert!(rules.take_garbage(Direction::Up).is_empty());
        assert_eq!(rules.take_garbage(Direction::Down).len(), 7);
        assert!(rules.take_garbage(Direction::Down).is_empty());
    }

    #[test]
    fn healing_undoes_everything_that_lasts() {
        let mut rules = Rules::new(1);
        for command in [["delay", "5"], ["stall", "up"], ["cut", ""]] {
            rules.command(&command).unwrap();
        }
        rules.command(&["heal"]).unwrap();
        assert!(!rules.cut && !rules.stalled(Direction::Up) && rules.crossing(1).1.is_zero());
    }
}
