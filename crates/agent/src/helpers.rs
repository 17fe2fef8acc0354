//! The commands that stock OCF agents expect of their cluster manager, answered by anshin's own program under their
//! names. A directory of links to the program stands first in an agent's PATH.
//!
//! Only what is answered truthfully is linked: an agent that asks for more finds no command and says so.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The names under which the program is linked.
pub const NAMES: [&str; 1] = ["crm_node"];

/// What a helper prints and how it exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub output: String,
    /// For standard error.
    pub error: String,
    /// The exit code.
    pub code: u8,
}

/// Answers a helper command, or None if the program was called under its own name. `node` is this node's name,
/// which agents get in `ANSHIN_NODE_NAME`.
#[must_use]
pub fn answer(called_as: &Path, arguments: &[String], node: Option<&str>) -> Option<Answer> {
    let name = called_as.file_name()?.to_str()?;
    if !NAMES.contains(&name) {
        return None;
    }
    let answer = match (arguments, node) {
        ([option], Some(node)) if option == "-n" || option == "--name" => {
            Answer { output: format!("{node}\n"), error: String::new(), code: 0 }
        }
        ([option], None) if option == "-n" || option == "--name" => {
            let error = "crm_node: ANSHIN_NODE_NAME is not set; run by an agent it is\n".to_owned();
            Answer { output: String::new(), error, code: 1 }
        }
        _ => {
            let error = format!("{name}: only `{name} -n` is answered here\n");
            Answer { output: String::new(), error, code: 64 }
        }
    };
    Some(answer)
}

/// Links `program` under the helpers' names in `directory`; correct links stay untouched.
///
/// # Errors
/// If the directory or a link cannot be made.
pub fn install(directory: &Path, program: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for name in NAMES {
        let link: PathBuf = directory.join(name);
        if fs::read_link(&link).is_ok_and(|target| target == program) {
            continue;
        }
        let fresh = directory.join(format!(".{name}.new"));
        let _ = fs::remove_file(&fresh);
        symlink(program, &fresh)?;
        fs::rename(&fresh, &link)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_learns_the_nodes_name() {
        let arguments = ["-n".to_owned()];
        let answer = answer(Path::new("/run/anshin/helpers/crm_node"), &arguments, Some("alpha")).unwrap();
        assert_eq!((answer.output.as_str(), answer.code), ("alpha\n", 0));
    }

    #[test]
    fn what_is_not_answered_is_said_and_other_names_are_not_helpers() {
        let all = ["-l".to_owned()];
        assert_eq!(answer(Path::new("crm_node"), &all, Some("alpha")).unwrap().code, 64);
        assert_eq!(answer(Path::new("/usr/bin/anshin"), &all, Some("alpha")), None);
    }
}
