//! Keys and passphrases on their way from and to people.

use anshin_base::Problem;
use anshin_vault::RecoveryKey;
use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// How often a recovery key may be mistyped before nothing is made.
const TRIES: usize = 5;
/// Longest file that is looked at for a key or passphrase.
const FILE_LENGTH_MAX: u64 = 4096;

/// How the owner of a new recovery key gets it.
#[derive(Clone, Copy, Debug)]
pub enum HandOver<'a> {
    /// Shown on the terminal, and typed back.
    TypedBack,
    /// Written into a file of its own, and read back.
    File(&'a Path),
    /// Printed with the rest of the answer; the caller wants no proof.
    Printed,
}

impl<'a> HandOver<'a> {
    /// What the options say.
    ///
    /// # Errors
    /// If nobody could type anything back.
    pub fn of(file: Option<&'a Path>, yes: bool) -> Result<Self, Problem> {
        match (file, yes) {
            (Some(file), _) => Ok(Self::File(file)),
            (None, true) => Ok(Self::Printed),
            (None, false) if io::stdin().is_terminal() && io::stderr().is_terminal() => Ok(Self::TypedBack),
            (None, false) => Err(Problem::refused(
                "recovery-key",
                "the recovery key must be put where this machine's loss cannot take it, and nobody is there to do so",
            )
            .hint("run it on a terminal, or with --recovery-key-file FILE, or with --yes to have it printed")),
        }
    }

    /// Hands the key over, and has it proven that it arrived.
    ///
    /// # Errors
    /// If it did not.
    pub fn carry_out(self, key: &RecoveryKey) -> Result<(), Problem> {
        match self {
            Self::Printed => Ok(()),
            Self::File(path) => {
                let failed = |error: io::Error| {
                    Problem::new("recovery-key", format!("cannot write {}: {error}", path.display()))
                };
                let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                let mut file = file.map_err(failed)?;
                writeln!(file, "{key}").and_then(|()| file.sync_all()).map_err(failed)?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                fs::File::open(parent.unwrap_or(Path::new(".")))
                    .and_then(|it| it.sync_all())
                    .map_err(failed)?;
                match read_recovery_key(Some(path))? == *key {
                    true => Ok(()),
                    false => Err(Problem::new(
                        "recovery-key",
                        format!("{} does not hold what was written", path.display()),
                    )),
                }
            }
            Self::TypedBack => typed_back(key),
        }
    }
}

fn typed_back(key: &RecoveryKey) -> Result<(), Problem> {
    let terminal = |error: io::Error| Problem::new("recovery-key", format!("the terminal failed: {error}"));
    let mut errors = io::stderr();
    write!(
        errors,
        "\nThis recovery key opens the vault when this machine and its key are lost.\n\
         Write it down and put it away: it is shown once and stored nowhere.\n\n    {key}\n\n"
    )
    .map_err(terminal)?;
    for _ in 0..TRIES {
        write!(errors, "Type it from what you wrote: ").and_then(|()| errors.flush()).map_err(terminal)?;
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line).map_err(terminal)? == 0 {
            break;
        }
        match line.parse::<RecoveryKey>() {
            Ok(typed) if typed == *key => return Ok(()),
            Ok(_) => writeln!(errors, "That is another key."),
            Err(error) => writeln!(errors, "{error}"),
        }
        .map_err(terminal)?;
    }
    Err(Problem::refused("recovery-key", "the recovery key was not typed back; nothing was made"))
}

/// A recovery key from a file, from standard input (`-`), or from the terminal.
///
/// # Errors
/// If there is none.
pub fn read_recovery_key(file: Option<&Path>) -> Result<RecoveryKey, Problem> {
    if file.is_none() && io::stdin().is_terminal() {
        let _ = write!(io::stderr(), "Recovery key: ").and_then(|()| io::stderr().flush());
        let mut line = String::new();
        let failed = |error: io::Error| Problem::new("recovery-key", format!("the terminal failed: {error}"));
        io::stdin().lock().read_line(&mut line).map_err(failed)?;
        return Ok(line.parse()?);
    }
    Ok(read_text(file.unwrap_or(Path::new("-")))?.parse()?)
}

/// A passphrase: the first line of a file or of standard input (`-`).
///
/// # Errors
/// If there is none.
pub fn read_passphrase(file: &Path) -> Result<String, Problem> {
    let text = read_text(file)?;
    let line = text.lines().next().unwrap_or_default();
    match line.is_empty() {
        false => Ok(line.to_owned()),
        true => Err(Problem::new("passphrase", format!("the first line of {} is empty", file.display()))),
    }
}

fn read_text(file: &Path) -> Result<String, Problem> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => io::stdin().take(FILE_LENGTH_MAX).read_to_string(&mut text),
        false => fs::File::open(file).and_then(|file| file.take(FILE_LENGTH_MAX).read_to_string(&mut text)),
    };
    read.map_err(|error| Problem::new("key-read", format!("cannot read {}: {error}", file.display())))?;
    Ok(text)
}
