//! `simulate [-t TIME] CIB.xml`: prints what would happen.

use std::process::ExitCode;

#[allow(clippy::print_stdout, reason = "the purpose of this program")]
fn main() -> ExitCode {
    let mut time = None;
    let mut path = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "simulate" => {}
            "-t" => time = arguments.next(),
            _ => path = Some(argument),
        }
    }
    let Some(path) = path else {
        eprintln!("usage: simulate [-t TIME] CIB.xml");
        return ExitCode::from(2);
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("cannot read {path}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match anshin_policy::simulate(&text, time.as_deref()) {
        Ok(out) => {
            print!("{out}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
