//! Where a server is, from what the site knows of its service.

use anshin_base::Problem;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Who and where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The system's and the database's superuser.
    pub user: String,
    /// Directory of its socket.
    pub socket: String,
    /// Port, which names the socket.
    pub port: u16,
    /// Directory of its programs, if it was said.
    pub programs: Option<PathBuf>,
}

impl Cluster {
    /// By facts of our own names, then those of the OCF agent `pgsql`, then Debian's configuration of the unit, then what
    /// PostgreSQL itself takes.
    pub fn of(facts: &BTreeMap<String, String>) -> Self {
        Self::with(facts, |path| fs::read_to_string(path).ok())
    }

    fn with(facts: &BTreeMap<String, String>, read: impl Fn(&Path) -> Option<String>) -> Self {
        let fact = |names: &[&str]| names.iter().find_map(|name| facts.get(*name)).cloned();
        let unit = fact(&["unit"]).unwrap_or_default();
        let debian = unit
            .strip_prefix("postgresql@")
            .and_then(|rest| rest.strip_suffix(".service").unwrap_or(rest).split_once('-'))
            .and_then(|(version, name)| {
                read(&Path::new("/etc/postgresql").join(version).join(name).join("postgresql.conf"))
            })
            .unwrap_or_default();
        let set = |key: &str| setting(&debian, key);
        let sockets = fact(&["socket_directory", "socketdir"]).or_else(|| set("unix_socket_directories"));
        let port = fact(&["port", "pgport"]).or_else(|| set("port")).and_then(|port| port.parse().ok());
        let ctl = fact(&["pgctl"]).and_then(|path| Path::new(&path).parent().map(Path::to_owned));
        Self {
            user: fact(&["user", "pgdba"]).unwrap_or_else(|| "postgres".into()),
            socket: sockets
                .and_then(|list| list.split(',').next().map(|first| first.trim().to_owned()))
                .filter(|first| !first.is_empty())
                .unwrap_or_else(|| "/var/run/postgresql".into()),
            port: port.unwrap_or(5432),
            programs: fact(&["bin_directory"]).map(PathBuf::from).or(ctl),
        }
    }

    /// One of PostgreSQL's programs, of a major version if it matters.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn program(&self, name: &str, major: Option<u32>) -> Result<PathBuf, Problem> {
        let mut places: Vec<PathBuf> = self.programs.iter().cloned().collect();
        if let Some(major) = major {
            places.push(format!("/usr/lib/postgresql/{major}/bin").into());
            places.push(format!("/usr/pgsql-{major}/bin").into());
        } else {
            // The newest client speaks with every server.
            let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            let mut found: Vec<_> = versions.map(|entry| entry.path()).collect();
            found.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
            places.extend(found.into_iter().rev().map(|path| path.join("bin")));
        }
        places.extend(["/usr/bin".into(), "/usr/local/bin".into(), "/usr/local/pgsql/bin".into()]);
        places.iter().map(|place| place.join(name)).find(|path| path.is_file()).ok_or_else(|| {
            let version = major.map_or(String::new(), |major| format!(" of PostgreSQL {major}"));
            super::setup(format!("the program {name}{version} is not installed on this node"))
                .hint("install the package that the other node has")
        })
    }

    /// A client program that connects to the server, run as its user.
    pub fn client(&self, program: &Path) -> Command {
        let mut command = as_user(&self.user, program);
        command.args(["-h", &self.socket, "-p", &self.port.to_string(), "-U", &self.user, "-w"]);
        command.env("PGAPPNAME", "anshin").env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C");
        command.current_dir("/");
        command
    }
}

/// A program run as `user`, if we are not.
pub fn as_user(user: &str, program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() || user == "root" {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", user, "--"]).arg(program);
    command
}

/// The last value of a setting in a configuration file's text.
fn setting(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(['=', ' ', '\t'])?;
        let value = value.trim_start_matches([' ', '\t', '=']);
        let value = match value.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next()?,
            None => value.split([' ', '\t', '#']).next()?,
        };
        (name == key).then(|| value.to_owned())
    });
    lines.next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_debian_unit_leads_to_its_configuration() {
        let text = "# port = 1\nport = 5433\t\t# (change requires restart)\nunix_socket_directories = '/run/pg, /tmp'\n";
        let read = |path: &Path| {
            (path == Path::new("/etc/postgresql/15/main/postgresql.conf")).then(|| text.to_owned())
        };
        let cluster = Cluster::with(&facts(&[("unit", "postgresql@15-main.service")]), read);
        assert_eq!(
            (cluster.port, cluster.socket.as_str(), cluster.user.as_str()),
            (5433, "/run/pg", "postgres")
        );
    }

    #[test]
    fn parameters_of_the_agent_are_understood_and_ours_come_first() {
        let all = facts(&[
            ("pgport", "6000"),
            ("pgdba", "pg"),
            ("socketdir", "/s"),
            ("pgctl", "/opt/pg/bin/pg_ctl"),
            ("port", "6001"),
        ]);
        let cluster = Cluster::with(&all, |_| None);
        assert_eq!((cluster.port, cluster.user.as_str(), cluster.socket.as_str()), (6001, "pg", "/s"));
        assert_eq!(cluster.programs, Some("/opt/pg/bin".into()));
        assert_eq!(Cluster::with(&facts(&[]), |_| None).port, 5432);
    }
}
