//! Whether restored data is good: a server is started on it, seen by nobody.

use super::{
    About,
    cluster::Cluster,
    server::{Private, as_owner},
};
use crate::backup::plugin::{guest::Guest, protocol::Say};
use anshin_base::Problem;
use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

/// Checksums of all pages if the cluster has them, every object's definition, and how large it is.
pub fn check(
    guest: &Guest,
    facts: &BTreeMap<String, String>,
    about: &About,
    directory: &Path,
) -> Result<(), Problem> {
    let cluster = Cluster::of(facts);
    let major = about.version / 10_000;
    let data = directory.join("data");
    let failed = |error: std::io::Error| Problem::new("postgresql", error.to_string());
    let sums = checksums(&cluster, major, &data)?;
    let mut server = Private::start(&cluster, major, &data, &[])?;
    let mut sql = server.ready()?;
    let system = sql.ask("SELECT system_identifier FROM pg_control_system()")?;
    if system != about.system {
        return Err(Problem::new(
            "postgresql",
            format!("the restored cluster is {system}, not {}", about.system),
        ));
    }
    let size = sql.ask(
        "SELECT count(*) || ' databases, ' || pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database WHERE datallowconn",
    )?;
    drop(sql);
    let dump = server.cluster().program("pg_dumpall", Some(major))?;
    let owner = fs::metadata(&data).map_err(failed)?;
    let mut command = as_owner(&owner, &dump);
    let reach = server.cluster();
    command.args(["-h", &reach.socket, "-p", "5432", "-U", &reach.user, "-w", "--schema-only"]);
    command
        .current_dir("/")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = command.output().map_err(failed)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Problem::new(
            "postgresql",
            format!("the restored databases cannot be dumped: {}", text.trim()),
        ));
    }
    server.stop()?;
    guest.say(&Say::Checked {
        text: format!("PostgreSQL {major} started; {size}; {sums}; all definitions dumped"),
    })
}

/// All pages against their checksums, while no server runs.
fn checksums(cluster: &Cluster, major: u32, data: &Path) -> Result<String, Problem> {
    let Ok(program) = cluster.program("pg_checksums", Some(major)) else {
        return Ok("page checksums not looked at".into());
    };
    let owner = fs::metadata(data).map_err(|error| Problem::new("postgresql", error.to_string()))?;
    let mut command = as_owner(&owner, &program);
    command.args(["--check", "-D"]).arg(data).current_dir("/").env("LC_ALL", "C");
    let output = command.output().map_err(|error| Problem::new("postgresql", error.to_string()))?;
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok("all page checksums are right".into());
    }
    if text.contains("checksums are not enabled") {
        return Ok("it has no page checksums".into());
    }
    Err(Problem::new("postgresql", format!("page checksums: {}", text.trim())))
}
