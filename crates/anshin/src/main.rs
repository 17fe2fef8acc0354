//! `anshin`: the command line, and the processes of a node as hidden subcommands of the same binary.

mod cli;
mod processes;
mod run;

use clap::Parser;
use std::{io::Write, path::Path, process::ExitCode};

fn main() -> ExitCode {
    match helper() {
        Some(code) => code,
        None => cli::main(cli::args::Cli::parse()),
    }
}

/// The binary under the name of a helper command that stock agents call; None under its own name.
fn helper() -> Option<ExitCode> {
    let mut arguments = std::env::args();
    let called_as = arguments.next()?;
    let arguments: Vec<String> = arguments.collect();
    let node = std::env::var("ANSHIN_NODE_NAME").ok();
    let answer = anshin_agent::helpers::answer(Path::new(&called_as), &arguments, node.as_deref())?;
    // Nobody can be told when standard output is gone; the exit code still tells.
    let _ = std::io::stdout().write_all(answer.output.as_bytes());
    let _ = std::io::stderr().write_all(answer.error.as_bytes());
    Some(ExitCode::from(answer.code))
}
