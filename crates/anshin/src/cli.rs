//! The command line: a client of the node's API, apart from what [`crate::run`] does and what concerns data itself ([`keep`]).

pub mod args;
mod client;
mod commands;
mod keep;
mod out;
mod protect;
mod show;
mod status;

use args::Cli;
use out::{Ending, Out};
use std::process::ExitCode;

/// Carries out one command line.
pub fn main(cli: Cli) -> ExitCode {
    let out = Out::new(cli.json);
    let ending = commands::carry_out(cli.command, &out).unwrap_or_else(|problem| out.problem(&problem));
    ExitCode::from(match ending {
        Ending::Ok => 0,
        Ending::Degraded => 1,
        Ending::Error => 2,
        Ending::Refused => 3,
    })
}

#[cfg(test)]
mod tests;
