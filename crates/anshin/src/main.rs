//! `anshin`: the command line, and the processes of a node as hidden subcommands of the same binary.

mod cli;
mod processes;
mod run;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(cli::args::Cli::parse())
}
