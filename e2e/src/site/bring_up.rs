//! From bare machines to a protected service; or from wherever an earlier attempt got to.

use super::{PROGRAM, Site};
use crate::error::{Context, LabError, Result, refuse};
use crate::lab::up::{self, Plan};
use crate::lab::{Lab, node, switch};
use crate::probe::program::Program;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Name of the volume that checks use.
pub const VOLUME: &str = "data";
/// Address of the service.
pub const SERVICE_ADDRESS: &str = "10.77.0.100";
/// Where the volume is mounted.
pub const MOUNT: &str = "/srv/data";
/// How long any step of the way may take.
const STEP: Duration = Duration::from_secs(60);

/// What to bring up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program under test.
    pub program: PathBuf,
    /// What the service runs.
    pub service: Program,
    /// Size of the volume, as the program takes it.
    pub size: String,
    /// Nodes; the last of three or more is the witness.
    pub nodes: Vec<String>,
    /// Whether the witness holds a vault as well, to which everything protected is backed up every night.
    pub vault: bool,
    /// Files to put on the volume, if any.
    pub data: Option<PathBuf>,
    /// Told what is being done, step by step.
    pub progress: fn(&str),
}

/// Brings the site up.
pub fn bring_up(lab: &Lab, options: &Options) -> Result<Site> {
    let plan = Plan {
        nodes: options.nodes.clone(),
        programs: vec![options.program.clone()],
        run: [PROGRAM, "run", "node"].map(str::to_owned).to_vec(),
        data_link: false,
    };
    for name in &options.nodes {
        // Until it is told who it is, a node has nothing to run.
        let dir = lab.node_dir(name, "lab");
        std::fs::create_dir_all(&dir).at(dir.display())?;
        if !known(lab, name) {
            node::hold_program(lab, name, true)?;
        }
    }
    up::up(lab, &plan)?;
    switch::heal_all(lab)?;
    let site = Site::on(lab)?;
    let Some((first, others)) = site.nodes.split_first() else { return refuse("a site needs a node") };
    (options.progress)(&format!("{first}: starting the site"));
    init(&site, first)?;
    for name in others {
        (options.progress)(&format!("{name}: joining"));
        join(&site, first, name, options.vault)?;
    }
    (options.progress)(&format!("{first}: making the volume {VOLUME} ({})", options.size));
    make_volume(&site, first, options)?;
    (options.progress)(&format!("{first}: protecting the service"));
    protect(&site, first, options)?;
    Ok(site)
}

/// True if the node has been made part of a site.
fn known(lab: &Lab, name: &str) -> bool {
    lab.node_dir(name, "etc").join("node.toml").exists()
}

fn init(site: &Site, first: &str) -> Result<()> {
    if !known(&site.lab, first) {
        let address = site.lab.node(first)?.address();
        site.must(first, &["init", "try", "--address", &address])?;
    }
    node::hold_program(&site.lab, first, false)?;
    // A ledger that has just been founded decides before it says what the site is.
    let knows = |status: super::Status| status.quorate() && status.online().iter().any(|node| node == first);
    until("the first node answers", || site.status(first).is_ok_and(knows))
}

fn join(site: &Site, first: &str, name: &str, vault: bool) -> Result<()> {
    if !known(&site.lab, name) {
        let token = site.json(first, &["token", "create"])?;
        let Some(token) = token["token"].as_str() else { return refuse("no token in the answer") };
        let address = site.lab.node(name)?.address();
        let role = match site.witness() {
            Some(witness) if witness == name && vault => "witness,vault",
            Some(witness) if witness == name => "witness",
            _ => "data",
        };
        site.must(name, &["join", token, "--role", role, "--address", &address])?;
    }
    node::hold_program(&site.lab, name, false)?;
    let online = |status: &super::Status| status.online().iter().any(|node| node == name);
    site.wait(&format!("joined by {name}"), STEP, online).map(drop)
}

fn make_volume(site: &Site, first: &str, options: &Options) -> Result<()> {
    if !site.leading_status()?.has_volume(VOLUME) {
        site.must(first, &["volume", "create", VOLUME, "--size", &options.size, "--mount", MOUNT])?;
    }
    site.wait("a volume in sync", STEP, |status| status.doubt().is_none()).map(drop)
}

fn protect(site: &Site, first: &str, options: &Options) -> Result<()> {
    if !site.leading_status()?.has_service() {
        let Some(primary) = site.leading_status()?.primary() else {
            return refuse("the volume has no primary");
        };
        until("the volume is mounted", || {
            node::output(&site.lab, &primary, &["mountpoint", "-q", MOUNT]).is_ok()
        })?;
        if let Some(data) = &options.data {
            copy_in(site, &primary, data)?;
        }
        let address = format!("{SERVICE_ADDRESS}/24");
        let mut words = vec!["protect"];
        let parameters = match options.service {
            Program::Demo => Vec::new(),
            Program::Postgres => prepare_postgres(site, &primary)?,
        };
        words.push(match options.service {
            Program::Demo => "demo",
            Program::Postgres => "ocf:heartbeat:pgsql",
        });
        words.extend(["--volume", VOLUME, "--address", &address]);
        for parameter in &parameters {
            words.extend(["--param", parameter]);
        }
        site.must(first, &words)?;
    }
    if options.vault {
        (options.progress)(&format!("{first}: the first backup"));
        back_up(site, first)?;
    }
    site.wait_protected(STEP).map(drop)
}

/// What was never backed up is not protected. A backup that was made by an earlier attempt is as good.
fn back_up(site: &Site, first: &str) -> Result<()> {
    site.wait("running", STEP, |status| status.service_node().is_some())?;
    until("the nightly plan is there", || {
        site.json(first, &["plan", "list"]).is_ok_and(|plans| plans.get(0).is_some())
    })?;
    let runs = site.json(first, &["runs", "list"])?;
    let sealed = |run: &serde_json::Value| run["outcome"] == "sealed";
    if runs["ended"].as_array().is_some_and(|ended| ended.iter().any(sealed)) {
        return Ok(());
    }
    site.must(first, &["plan", "run", "nightly", "--wait"]).map(drop)
}

/// Puts a copy of the user's files on the volume, through the machine's part of its own directory.
fn copy_in(site: &Site, primary: &str, data: &Path) -> Result<()> {
    let staged = site.lab.node_dir(primary, "lab").join("data");
    let copied =
        std::process::Command::new("cp").args(["-a", "--"]).arg(data).arg(&staged).status().at("cp")?;
    if !copied.success() {
        return refuse(format!("{} could not be copied", data.display()));
    }
    node::output(&site.lab, primary, &["cp", "-a", "/run/lab/data/.", &format!("{MOUNT}/files")])?;
    std::fs::remove_dir_all(&staged).at(staged.display())
}

/// Directory of PostgreSQL's programs, the newest installed.
pub fn postgres_programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let agent = Path::new("/usr/lib/ocf/resource.d/heartbeat/pgsql").exists();
    match newest.filter(|_| agent) {
        Some(version) => Ok(format!("/usr/lib/postgresql/{version}/bin").into()),
        None => {
            Err(LabError::Missing("the packages postgresql and resource-agents are not installed".to_owned()))
        }
    }
}

/// Makes a database on the mounted volume; the parameters of the agent that runs it.
fn prepare_postgres(site: &Site, primary: &str) -> Result<Vec<String>> {
    let programs = postgres_programs()?;
    let programs = programs.display();
    let data = format!("{MOUNT}/pg");
    let script = format!(
        "set -e\n\
         install -d -o postgres -g postgres -m 700 {data}\n\
         test -e {data}/PG_VERSION || su postgres -s /bin/sh -c '{programs}/initdb -D {data} --auth=trust' >/dev/null\n\
         echo 'host all all 10.77.0.0/24 trust' >> {data}/pg_hba.conf\n\
         echo \"listen_addresses = '*'\" >> {data}/postgresql.conf\n\
         su postgres -s /bin/sh -c \"{programs}/pg_ctl -D {data} -w -o '-k /run/postgresql' start\" >/dev/null\n\
         su postgres -s /bin/sh -c \"psql -qc 'CREATE TABLE row (text text)'\"\n\
         su postgres -s /bin/sh -c '{programs}/pg_ctl -D {data} -w -m fast stop' >/dev/null\n\
         # The lines appended above are nobody's acknowledged write until they are synced.\n\
         sync -f {data}\n"
    );
    node::output(&site.lab, primary, &["sh", "-c", &script])?;
    Ok(vec![
        format!("pgdata={data}"),
        format!("pgctl={programs}/pg_ctl"),
        "psql=/usr/bin/psql".to_owned(),
        "socketdir=/run/postgresql".to_owned(),
    ])
}

fn until(what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + STEP;
    while Instant::now() < end {
        if so() {
            return Ok(());
        }
        thread::sleep(super::LOOK);
    }
    refuse(format!("waiting for this took too long: {what}"))
}
