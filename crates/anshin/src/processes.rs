//! The long-lived processes of a node, each a hidden subcommand of this one binary.

use crate::run::Times;
use anshin_base::{Millis, Problem};
use anshin_node::{
    backup::{Tools, plugin::postgresql},
    daemon,
    paths::Paths,
    setup::NodeFile,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

/// Port of the web console, on the loopback address only.
pub const CONSOLE_PORT: u16 = 7880;

/// Logs go to standard error; `ANSHIN_LOG` sets the filter (`info` if not set).
pub fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ANSHIN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

/// `anshin run node`: the daemon. Waits until the server is a node of a site.
///
/// # Errors
/// What keeps it from starting or running.
pub fn node() -> Result<(), Problem> {
    start_log();
    let failed = |what: &str, error: std::io::Error| Problem::new("daemon-start", format!("{what}: {error}"));
    let executable = std::env::current_exe().map_err(|error| failed("cannot tell my own program", error))?;
    let paths = Paths::of_environment();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failed("cannot start", error))?;
    runtime.block_on(async move {
        let site = daemon::start(daemon::Options { paths: paths.clone(), executable }).await?;
        let control: Arc<dyn anshin_node::control::Control> = site;
        let console = anshin_console::serve_loopback(CONSOLE_PORT, control.clone());
        tokio::spawn(async move {
            if let Err(error) = console.await {
                tracing::error!(%error, port = CONSOLE_PORT, "the console cannot be served");
            }
        });
        let socket = paths.api_socket();
        anshin_console::serve_unix(&socket, control)
            .await
            .map_err(|error| failed("cannot serve the API", error))
    })
}

fn this_node(paths: &Paths) -> Result<NodeFile, Problem> {
    NodeFile::load(paths)?.ok_or_else(|| {
        Problem::new("not-a-node", "this server is no node of a site yet")
            .hint("run `anshin init` or `anshin join`")
    })
}

/// `anshin run voter`.
///
/// # Errors
/// What keeps it from running.
pub fn voter() -> Result<(), Problem> {
    start_log();
    let paths = Paths::of_environment();
    let node = this_node(&paths)?;
    anshin_node::voter::run(node.voter_options(&paths)?)
}

/// `anshin run volume NAME --port PORT`.
///
/// # Errors
/// What keeps it from running.
pub fn volume(name: &str, port: u16, times: &Times) -> Result<(), Problem> {
    start_log();
    let paths = Paths::of_environment();
    this_node(&paths)?;
    let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let mut options = anshin_device::Options::of_node(name, listen);
    options.times = anshin_device::Times {
        heartbeat: Millis(times.heartbeat_ms),
        peer_silent: Millis(times.silence_ms),
        lease: Millis(times.lease_ms),
        drift_permille: times.drift_permille,
    };
    if let Some(network) = &mut options.network {
        network.identity = paths.identity();
    }
    anshin_device::run(options)
}

/// `anshin run vault NAME`.
///
/// # Errors
/// What keeps it from running.
pub fn vault(name: &str, listen: Option<SocketAddr>) -> Result<(), Problem> {
    start_log();
    let paths = Paths::of_environment();
    let node = this_node(&paths)?;
    let usual = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), node.vault_port);
    anshin_node::keep::process::run(
        &paths,
        &anshin_director::VaultName::checked(name)?,
        listen.unwrap_or(usual),
    )
}

/// `anshin run backup`, `restore` and `archive`.
///
/// # Errors
/// What keeps it from running, or that it was without success.
pub fn executor(run: fn(&Tools) -> Result<bool, Problem>) -> Result<(), Problem> {
    start_log();
    let executable = std::env::current_exe();
    let executable = executable.map_err(|error| Problem::new("backup-start", error.to_string()))?;
    if run(&Tools::of_node(Paths::of_environment(), executable))? {
        return Ok(());
    }
    Err(Problem::new("not-done", "it did not succeed; its last line on standard output says why"))
}

/// `anshin run plugin NAME`: a plugin that is part of this program.
///
/// # Errors
/// If there is none of that name, or nobody who asks.
pub fn plugin(name: &str) -> Result<(), Problem> {
    start_log();
    match name {
        postgresql::NAME => postgresql::run(),
        _ => Err(Problem::new("plugin-unknown", format!("there is no built-in plugin `{name}`"))),
    }
}

/// `anshin run guard`.
///
/// # Errors
/// What keeps it from running.
pub fn guard() -> Result<(), Problem> {
    start_log();
    anshin_agent::guard::run(&anshin_agent::guard::Options::new(Paths::of_environment().run))
}

/// `anshin run demo --dir DIR --listen ADDRESS:PORT`.
///
/// # Errors
/// What keeps it from running.
pub fn demo(dir: &Path, listen: SocketAddr) -> Result<(), Problem> {
    start_log();
    anshin_agent::demo::run(&anshin_agent::demo::Options { dir: dir.to_path_buf(), listen })
}
