//! What `anshin protect` makes of what was typed.

use super::args::Protect;
use anshin_base::Problem;
use anshin_node::view::{Program, ServiceCreate};
use std::{collections::BTreeMap, path::Path};

/// The service that is asked for.
///
/// # Errors
/// When the program is none of the known kinds, or a parameter has no `=`.
pub fn service(asked: Protect) -> Result<ServiceCreate, Problem> {
    let parameters = parameters(&asked.parameters)?;
    let (program, name) = program(&asked.program, parameters)?;
    Ok(ServiceCreate {
        name: asked.name.unwrap_or(name),
        program,
        volumes: asked.volumes,
        address: asked.address,
        prefer: asked.prefer,
    })
}

fn parameters(texts: &[String]) -> Result<BTreeMap<String, String>, Problem> {
    let pairs = texts.iter().map(|text| {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) =
            pair.ok_or_else(|| Problem::new("parameter-format", format!("`{text}` is not NAME=VALUE")))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// The program and the name that a service of it gets.
fn program(words: &[String], parameters: BTreeMap<String, String>) -> Result<(Program, String), Problem> {
    let first = words.first().map_or("", String::as_str);
    let bad = |message: String, hint: &str| Err(Problem::new("program-format", message).hint(hint));
    if let Some(agent) = first.strip_prefix("ocf:") {
        let Some((_, kind)) =
            agent.split_once(':').filter(|(provider, kind)| !provider.is_empty() && !kind.is_empty())
        else {
            return bad(
                format!("`{first}` is not an OCF agent"),
                "write ocf:PROVIDER:TYPE, as ocf:heartbeat:pgsql",
            );
        };
        return match words.len() {
            1 => Ok((Program::Ocf { agent: agent.to_owned(), parameters }, kind.to_owned())),
            _ => bad("an OCF agent takes no arguments".to_owned(), "write --param NAME=VALUE"),
        };
    }
    if words == ["demo"] {
        return Ok((Program::BuiltIn { what: first.to_owned(), parameters }, first.to_owned()));
    }
    if !parameters.is_empty() {
        let what = "only an OCF agent and the demonstration take --param";
        return bad(what.to_owned(), "write ocf:PROVIDER:TYPE as the program");
    }
    if let Some(stem) = first.strip_suffix(".service") {
        let name = stem.split('@').next().unwrap_or(stem).to_owned();
        return match words.len() {
            1 => Ok((Program::Systemd { unit: first.to_owned() }, name)),
            _ => bad(
                "a systemd unit takes no arguments".to_owned(),
                "give the unit's own options in its unit file",
            ),
        };
    }
    let path = Path::new(first);
    match path.file_name() {
        Some(name) if path.is_absolute() => {
            let name = name.to_string_lossy().into_owned();
            Ok((Program::Command { arguments: words.to_vec() }, name))
        }
        _ => bad(
            format!("`{first}` is neither a systemd unit, an OCF agent nor a program's path"),
            "write NAME.service, ocf:PROVIDER:TYPE or a path that begins with /",
        ),
    }
}
