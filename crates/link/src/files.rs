//! Writing small files so that a crash leaves the old or the new one, and keys are private from birth.

use anshin_base::Problem;
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Replaces `path` with `content`: written beside it with `mode`, made durable, renamed.
///
/// # Errors
/// The file system's; the old file is untouched then.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = parent.join(name);
    // A left-over of a crash may have another mode; it is made anew.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    fs::File::open(parent)?.sync_all()
}

/// [`write()`] for the identity.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), Problem> {
    write(path, content, mode)
        .map_err(|error| Problem::new("identity-write", format!("cannot write {}: {error}", path.display())))
}

/// The content of `path`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(path).map_err(|error| {
        let problem = Problem::new("identity-read", format!("cannot read {}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::NotFound => {
                problem.hint("this node belongs to no site yet: `anshin init` or `anshin join`")
            }
            _ => problem,
        }
    })
}
