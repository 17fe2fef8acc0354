//! Plans and their runs on the command line.

pub mod args;
mod describe;
mod plan;
mod runs;
mod show;

pub use plan::plan;
pub use runs::runs;

#[cfg(test)]
mod tests;
