//! Those who have no business here: wrong tokens and garbage on every port.

use super::stage::{PATIENCE, Stage};
use crate::error::{Context, Result, refuse};
use crate::lab::{node, process};
use crate::sys;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// Port of the join endpoint.
const JOIN_PORT: u16 = 7800;

/// Everything is refused with a clear line, and nothing crashes.
pub fn run(stage: &mut Stage) -> Result<()> {
    let active = stage.site.active()?;
    let client = stage.client("strangers");
    client.wait_after(Instant::now(), PATIENCE)?;
    let before = processes(stage)?;
    bad_tokens(stage)?;
    let foreign = foreign_certificate(stage)?;
    let mut ports = 0;
    for name in stage.site.nodes().to_vec() {
        ports += garbage(stage, &name)?;
    }
    client.wait_after(Instant::now(), PATIENCE)?;
    if let Some(difference) = difference(&before, &processes(stage)?) {
        return refuse(format!("while strangers knocked, {difference}"));
    }
    if stage.site.active()? != active {
        return refuse("the service moved while strangers knocked");
    }
    stage.done(client);
    stage.rows_are_there()?;
    stage.report.row(&[("ports", f64::from(ports)), ("foreign_certificates_refused", f64::from(foreign))]);
    Ok(())
}

/// The program's processes on every node: what each was started as, by node and pid.
type Processes = BTreeMap<(String, i32), String>;

fn processes(stage: &Stage) -> Result<Processes> {
    let mut all = Processes::new();
    for name in stage.site.nodes() {
        for process in node::processes(&stage.lab, name, &["anshin", "run"])? {
            all.insert((name.clone(), process.pid), process::words(process.pid).join(" "));
        }
    }
    Ok(all)
}

/// Which processes ended and which began.
fn difference(before: &Processes, after: &Processes) -> Option<String> {
    let missing = |from: &Processes, to: &Processes| {
        let gone = from.iter().filter(|(process, _)| !to.contains_key(process));
        let named = gone.map(|((node, pid), words)| format!("{pid} on {node} ({words})"));
        named.collect::<Vec<_>>().join(", ")
    };
    let said = [("ended", missing(before, after)), ("began", missing(after, before))]
        .into_iter()
        .filter(|(_, which)| !which.is_empty())
        .map(|(what, which)| format!("these processes {what}: {which}"));
    let said = said.collect::<Vec<_>>().join("; ");
    (!said.is_empty()).then_some(said)
}

/// Tokens that must not admit anybody, tried on a machine that belongs to nobody.
fn bad_tokens(stage: &Stage) -> Result<()> {
    crate::lab::up::up(
        &stage.lab,
        &crate::lab::up::Plan {
            nodes: vec!["stranger".to_owned()],
            programs: vec![stage.settings.program.clone()],
            run: Vec::new(),
            data_link: false,
        },
    )?;
    let good = stage.site.json("a", &["token", "create"])?["token"].as_str().unwrap_or_default().to_owned();
    let short = stage.site.json("a", &["token", "create", "--valid", "1s"])?["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    thread::sleep(Duration::from_secs(2));
    // One character of the secret part changed.
    let mut wrong = good.clone();
    let last = wrong.pop().unwrap_or('x');
    wrong.push(if last == 'a' { 'b' } else { 'a' });
    for (what, token) in
        [("a wrong token", wrong.as_str()), ("an expired token", &short), ("garbage", "anshin")]
    {
        let outcome = stage.site.run("stranger", &["join", token, "--address", "10.77.0.200"])?;
        if outcome.code == Some(0) {
            return refuse(format!("{what} was accepted"));
        }
        let told = outcome.err.trim();
        if told.is_empty() || told.contains("panicked") {
            return refuse(format!("{what} was refused without a clear word: {told:?}"));
        }
        stage.report.say(&format!("{what}: {}", told.lines().next().unwrap_or_default()));
    }
    Ok(())
}

/// What every port that asks for a certificate writes into its log.
const FOREIGN_LINE: &str = "certificate of another site";
/// Where the stranger's own site keeps its identity.
const IDENTITY: &str = "/etc/anshin/identity";

/// A node of another site, with the certificate of that site's own authority, knocks at every port.
fn foreign_certificate(stage: &Stage) -> Result<u32> {
    stage.site.must("stranger", &["init", "foreign", "--address", "10.77.0.200"])?;
    let (certificate, key) = (format!("{IDENTITY}/node.pem"), format!("{IDENTITY}/node-key.pem"));
    let mut refused = 0;
    for name in stage.site.nodes() {
        let address = stage.lab.node(name)?.address();
        for port in tcp_ports(stage, name)? {
            let before = foreign_lines(stage, name)?;
            let to = format!("{address}:{port}");
            let words = [
                "timeout",
                "5",
                "openssl",
                "s_client",
                "-connect",
                &to,
                "-cert",
                &certificate,
                "-key",
                &key,
                "-ign_eof",
            ];
            let knock = node::command(&stage.lab, "stranger", &words)?.stdin(Stdio::null()).output();
            let said = knock.at("openssl s_client")?;
            // What `timeout` says when the connection was still open.
            let stayed = said.status.code() == Some(124);
            let said = [said.stdout, said.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            if port == JOIN_PORT {
                // Who joins has no certificate yet: none is asked for, and the token decides.
                if !said.contains("No client certificate CA names sent") {
                    return refuse(format!("port {port} of {name} is no join endpoint: {said}"));
                }
                continue;
            }
            if stayed {
                return refuse(format!(
                    "port {port} of {name} did not refuse another site's certificate: {said}"
                ));
            }
            if !told(stage, name, before)? {
                return refuse(format!(
                    "{name} wrote no clear line about another site's certificate on port {port}"
                ));
            }
            refused += 1;
        }
    }
    if refused == 0 {
        return refuse("no port asked for a certificate");
    }
    Ok(refused)
}

/// Whether another line about a foreign certificate is in a node's logs, within a moment.
fn told(stage: &Stage, name: &str, before: usize) -> Result<bool> {
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        if foreign_lines(stage, name)? > before {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

fn foreign_lines(stage: &Stage, name: &str) -> Result<usize> {
    let logs = node::output(&stage.lab, name, &["sh", "-c", "cat /run/anshin/*.log /var/log/node.log"])?;
    Ok(logs.lines().filter(|line| line.contains(FOREIGN_LINE)).count())
}

/// Sends garbage to every TCP port that a node listens on; how many there were.
fn garbage(stage: &mut Stage, name: &str) -> Result<u32> {
    let ports = tcp_ports(stage, name)?;
    let address: IpAddr = stage
        .lab
        .node(name)?
        .address()
        .parse()
        .map_err(|_| crate::error::LabError::Refused("address".to_owned()))?;
    let Some(home) = stage.lab.load()?.client else { return refuse("the client's place is not up") };
    let mut count = 0;
    for port in ports {
        count += 1;
        let junk: Vec<u8> = (0..4096).map(|_| stage.rng.bits() as u8).collect();
        sys::in_network(home.pid, move || knock(SocketAddr::new(address, port), &junk))?
            .at(format!("port {port} of {name}"))?;
    }
    Ok(count)
}

/// The TCP ports on which the program itself listens for others.
fn tcp_ports(stage: &Stage, name: &str) -> Result<Vec<u16>> {
    let listing = node::output(&stage.lab, name, &["ss", "-Hltn"])?;
    let port_of = |line: &str| {
        let local = line.split_whitespace().nth(3).filter(|local| !local.starts_with("127."))?;
        local.rsplit(':').next()?.parse().ok()
    };
    Ok(listing.lines().filter_map(port_of).filter(|port| *port != stage.program.port()).collect())
}

fn knock(to: SocketAddr, junk: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    // Being hung up on in the middle is one of the right answers.
    let _hung_up = stream.write_all(junk);
    let _hung_up = stream.read(&mut [0; 64]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_or_began_is_named() {
        let one = |pid, words: &str| (("a".to_owned(), pid), words.to_owned());
        let before = Processes::from([one(7, "anshin run node"), one(8, "anshin run voter")]);
        assert_eq!(difference(&before, &before), None);
        let after = Processes::from([one(7, "anshin run node"), one(9, "anshin run voter")]);
        let said = difference(&before, &after).unwrap();
        assert_eq!(
            said,
            "these processes ended: 8 on a (anshin run voter); these processes began: 9 on a (anshin run voter)"
        );
    }
}
