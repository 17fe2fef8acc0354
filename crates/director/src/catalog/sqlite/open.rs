//! Opening the file, and what becomes of one that cannot be used.

use super::{CatalogError, Result, SqliteCatalog, schema};
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// Damaged files kept beside the catalog; older ones make room.
const SET_ASIDE_MAX: u32 = 3;

/// A catalog that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The catalog.
    pub catalog: SqliteCatalog,
    /// For the log and the console, if the file that was there could not be used: it was set aside, the catalog is
    /// empty, and is to be rebuilt.
    pub note: Option<String>,
}

impl SqliteCatalog {
    /// Opens or creates the file. One that is damaged, or written by a newer build, is set aside as
    /// `NAME.damaged-N`.
    ///
    /// # Errors
    /// [`CatalogError::Store`] if the disk does not let it.
    pub fn open(path: &Path) -> Result<Opened> {
        match Self::try_open(path) {
            Ok(catalog) => Ok(Opened { catalog, note: None }),
            Err(CatalogError::Damaged(why)) => {
                let aside = set_aside(path)?;
                let catalog = Self::try_open(path)?;
                let note = format!(
                    "the catalog could not be used ({why}); it was set aside as {} and is rebuilt",
                    aside.display()
                );
                Ok(Opened { catalog, note: Some(note) })
            }
            Err(error) => Err(error),
        }
    }

    /// A catalog that lives in memory only.
    ///
    /// # Errors
    /// [`CatalogError::Store`] if there is no memory.
    pub fn in_memory() -> Result<Self> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn try_open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        // Losing the last moments in a power failure is fine: the position goes back with them and they are applied
        // again.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(CatalogError::Damaged(check));
        }
        Self::prepare(connection)
    }

    fn prepare(mut connection: Connection) -> Result<Self> {
        let version = schema::version(&connection)?;
        if version > schema::VERSION {
            let why = format!("it has version {version}, newer than this build reads");
            return Err(CatalogError::Damaged(why));
        }
        schema::migrate(&mut connection)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        Ok(Self { connection })
    }
}

fn set_aside(path: &Path) -> Result<PathBuf> {
    let io = |error: std::io::Error| CatalogError::Store(format!("{}: {error}", path.display()));
    let name = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let place = |number: u32| name(&format!(".damaged-{number}"));
    let number = (1..SET_ASIDE_MAX).find(|&number| !place(number).exists()).unwrap_or(SET_ASIDE_MAX);
    std::fs::rename(path, place(number)).map_err(io)?;
    for side in ["-wal", "-shm"] {
        // They belong to the file that is gone; with a new one they would be taken for its own.
        match std::fs::remove_file(name(side)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    Ok(place(number))
}
