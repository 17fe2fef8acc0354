//! A line that misbehaves: a TCP relay that delays, throttles, stalls, cuts, resets and lies when told to.

pub mod line;
pub mod rules;

pub use line::serve;
