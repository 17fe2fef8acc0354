//! The commands that stock OCF agents expect of their cluster manager, answered by anshin's own program under their
//! names. A directory of links to the program stands first in an agent's PATH.
//!
//! Links to a program and no scripts, because `/run` is commonly mounted noexec. Only what is answered truthfully is
//! linked: an agent that asks for more finds no command and says so.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The names under which the program is linked, and whether a command of that name elsewhere is preferred.
/// `modprobe` is asked for by the agent Filesystem and does not exist where the kernel takes no modules.
const NAMES: [(&str, Prefer); 2] = [("crm_node", Prefer::Ours), ("modprobe", Prefer::Theirs)];

/// Where an agent finds the system's own commands.
pub(crate) const SYSTEM_PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefer {
    Ours,
    Theirs,
}

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
    match name {
        "crm_node" => Some(crm_node(arguments, node)),
        "modprobe" => Some(modprobe(arguments, Path::new("/"))),
        _ => None,
    }
}

/// Without modules to load, a module is there if it is part of the kernel.
fn modprobe(arguments: &[String], root: &Path) -> Answer {
    let Some(name) = arguments.iter().find(|argument| !argument.starts_with('-')) else {
        return Answer { output: String::new(), error: "modprobe: which module?\n".to_owned(), code: 64 };
    };
    let module = root.join("sys/module").join(name.replace('-', "_")).exists() && !name.contains('/');
    let systems = fs::read_to_string(root.join("proc/filesystems")).unwrap_or_default();
    if module || systems.split_whitespace().any(|system| system == name) {
        return Answer { output: String::new(), error: String::new(), code: 0 };
    }
    let error = format!("modprobe: {name} is not part of this kernel, and no modules can be loaded here\n");
    Answer { output: String::new(), error, code: 1 }
}

fn crm_node(arguments: &[String], node: Option<&str>) -> Answer {
    match (arguments, node) {
        ([option], Some(node)) if option == "-n" || option == "--name" => {
            Answer { output: format!("{node}\n"), error: String::new(), code: 0 }
        }
        ([option], None) if option == "-n" || option == "--name" => {
            let error = "crm_node: ANSHIN_NODE_NAME is not set; run by an agent it is\n".to_owned();
            Answer { output: String::new(), error, code: 1 }
        }
        _ => {
            let error = "crm_node: only `crm_node -n` is answered here\n".to_owned();
            Answer { output: String::new(), error, code: 64 }
        }
    }
}

/// Links `program` under the helpers' names in `directory`; correct links stay untouched.
///
/// # Errors
/// If the directory or a link cannot be made.
pub fn install(directory: &Path, program: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, prefer) in NAMES {
        if prefer == Prefer::Theirs && SYSTEM_PATH.iter().any(|place| Path::new(place).join(name).exists()) {
            continue;
        }
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
    fn a_kernel_without_modules_says_what_is_part_of_it() {
        let ask = |name: &str| modprobe(&["-q".to_owned(), name.to_owned()], Path::new("/")).code;
        assert_eq!((ask("tmpfs"), ask("no-such-module")), (0, 1));
    }

    #[test]
    fn what_is_not_answered_is_said_and_other_names_are_not_helpers() {
        let all = ["-l".to_owned()];
        assert_eq!(answer(Path::new("crm_node"), &all, Some("alpha")).unwrap().code, 64);
        assert_eq!(answer(Path::new("/usr/bin/anshin"), &all, Some("alpha")), None);
    }
}
