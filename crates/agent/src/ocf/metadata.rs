//! What an OCF agent says about itself, and a resource compared with it.

use crate::resource::{Action, Resource};
use anshin_base::{Millis, Problem};
use roxmltree::{Document, Node, ParsingOptions};
use serde::{Deserialize, Serialize};

/// Bounds a hostile or broken description.
const ENTRIES_MAX: usize = 1_000;

/// An agent's description of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The agent's type.
    pub name: String,
    /// Its version, as it says.
    pub version: String,
    /// One line about it.
    pub summary: String,
    /// What it can be told.
    pub parameters: Vec<Parameter>,
    /// What it can do, with the times it advises.
    pub actions: Vec<ActionInfo>,
}

/// One parameter of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// One line about it.
    pub summary: String,
    /// Must be given.
    pub required: bool,
    /// No two resources may have the same value.
    pub unique: bool,
    /// `string`, `integer`, `boolean`, `select` or what else the agent says.
    pub kind: String,
    /// What holds if it is not given.
    pub default: Option<String>,
}

/// One action of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionInfo {
    /// Its name.
    pub name: String,
    /// How long it should be given.
    pub timeout: Option<Millis>,
    /// How often it should be repeated.
    pub interval: Option<Millis>,
    /// How deep it looks.
    pub depth: Option<u8>,
    /// In which role only.
    pub role: Option<String>,
}

impl Metadata {
    /// Reads the XML that an agent prints for `meta-data`.
    ///
    /// # Errors
    /// A problem with the code `agent-metadata` that names the place in the text.
    pub fn parse(xml: &str) -> Result<Self, Problem> {
        let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
        let bad = |why: String| {
            Problem::new("agent-metadata", format!("the agent's description cannot be read: {why}"))
        };
        // Some agents print an empty line before the XML declaration, where XML allows none.
        let document = Document::parse_with_options(xml.trim_start(), options)
            .map_err(|error| bad(error.to_string()))?;
        let root = document.root_element();
        if root.tag_name().name() != "resource-agent" {
            return Err(bad(format!("<{}> instead of <resource-agent>", root.tag_name().name())));
        }
        let list = |group: &str, entry: &'static str| {
            let group = child(root, group);
            group.into_iter().flat_map(move |group| children(group, entry)).take(ENTRIES_MAX)
        };
        Ok(Self {
            name: attribute(root, "name").unwrap_or_default(),
            version: attribute(root, "version").or_else(|| text(root, "version")).unwrap_or_default(),
            summary: text(root, "shortdesc").unwrap_or_default(),
            parameters: list("parameters", "parameter").map(parameter).collect(),
            actions: list("actions", "action").map(action).collect(),
        })
    }

    /// How long the agent advises to give `action`.
    #[must_use]
    pub fn timeout(&self, action: Action) -> Option<Millis> {
        self.actions.iter().find(|info| info.name == action.word()).and_then(|info| info.timeout)
    }

    /// True if the agent says that it knows `action`.
    #[must_use]
    pub fn knows(&self, action: Action) -> bool {
        self.actions.iter().any(|info| info.name == action.word())
    }

    /// What is wrong with the parameters of `resource`, all of it.
    #[must_use]
    pub fn check(&self, resource: &Resource) -> Vec<Problem> {
        let place = format!("{} ({})", resource.name, resource.label());
        let missing = self
            .parameters
            .iter()
            .filter(|known| known.required && resource.parameter(&known.name).is_none())
            .map(|known| {
                Problem::new("missing-parameter", format!("{place}: `{}` must be given", known.name))
                    .hint(format!("{}: {}", known.name, known.summary))
            });
        let given = resource.parameters.iter().filter_map(|(name, value)| {
            match self.parameters.iter().find(|known| known.name == *name) {
                Some(known) => known.check(value).map(|problem| problem.context(&place)),
                None => Some(self.unknown(name).context(&place)),
            }
        });
        missing.chain(given).collect()
    }

    fn unknown(&self, name: &str) -> Problem {
        let problem = Problem::new("unknown-parameter", format!("the agent knows no parameter `{name}`"));
        let nearest = self.parameters.iter().min_by_key(|known| distance(&known.name, name));
        match nearest {
            Some(near) if distance(&near.name, name) <= 3 => {
                problem.hint(format!("did you mean `{}`?", near.name))
            }
            _ => {
                let names: Vec<&str> = self.parameters.iter().map(|known| known.name.as_str()).collect();
                problem.hint(format!("it knows: {}", names.join(", ")))
            }
        }
    }
}

impl Parameter {
    fn check(&self, value: &str) -> Option<Problem> {
        let fits = match self.kind.as_str() {
            "integer" => value.trim().parse::<i64>().is_ok(),
            // What ocf_is_true and its counterparts in agents understand.
            "boolean" => {
                let words = ["yes", "no", "true", "false", "1", "0", "on", "off", "ja", "nein"];
                words.contains(&value.to_lowercase().as_str())
            }
            _ => true,
        };
        (!fits).then(|| {
            Problem::new("bad-parameter", format!("`{}` is {value:?}, not {}", self.name, self.kind))
                .hint(format!("{}: {}", self.name, self.summary))
        })
    }
}

fn children<'a>(node: Node<'a, 'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.is_element() && child.tag_name().name() == name)
}

fn text(node: Node<'_, '_>, name: &str) -> Option<String> {
    let found = node.children().find(|child| child.is_element() && child.tag_name().name() == name)?;
    Some(found.text()?.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn attribute(node: Node<'_, '_>, name: &str) -> Option<String> {
    node.attribute(name).map(str::to_owned)
}

fn truth(node: Node<'_, '_>, name: &str) -> bool {
    node.attribute(name).is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

fn parameter(node: Node<'_, '_>) -> Parameter {
    let content = child_attribute(node, "content", "type");
    Parameter {
        name: attribute(node, "name").unwrap_or_default(),
        summary: text(node, "shortdesc").unwrap_or_default(),
        required: truth(node, "required"),
        unique: truth(node, "unique") || node.attribute("unique-group").is_some(),
        kind: content.unwrap_or_else(|| "string".to_owned()),
        default: child_attribute(node, "content", "default"),
    }
}

fn child_attribute(node: Node<'_, '_>, name: &str, attribute: &str) -> Option<String> {
    let found = node.children().find(|child| child.is_element() && child.tag_name().name() == name)?;
    found.attribute(attribute).map(str::to_owned)
}

fn action(node: Node<'_, '_>) -> ActionInfo {
    ActionInfo {
        name: attribute(node, "name").unwrap_or_default(),
        timeout: node.attribute("timeout").and_then(duration),
        interval: node.attribute("interval").and_then(duration),
        depth: node.attribute("depth").and_then(|depth| depth.parse().ok()),
        role: attribute(node, "role"),
    }
}

/// A length of time as agents write it: a number with an optional unit, seconds if it has none.
fn duration(text: &str) -> Option<Millis> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..unit_at].parse().ok()?;
    let factor = match text[unit_at..].trim() {
        "ms" | "msec" => 1,
        "" | "s" | "sec" => 1_000,
        "m" | "min" => 60_000,
        "h" | "hr" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(factor).map(Millis)
}

/// Edit distance, for "did you mean".
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Class;

    const XML: &str = r#"
<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="thing" version="1.1">
<version>1.0</version>
<shortdesc lang="en">A
  thing</shortdesc>
<parameters>
<parameter name="device" unique="0" required="1"><shortdesc>What</shortdesc><content type="string"/></parameter>
<parameter name="port"><content type="integer" default="5432"/></parameter>
<parameter name="fast"><content type="boolean" default="false"/></parameter>
</parameters>
<actions>
<action name="start" timeout="60s"/>
<action name="monitor" depth="0" timeout="40" interval="1min"/>
</actions>
</resource-agent>"#;

    #[test]
    fn a_description_is_read_with_its_times() {
        let metadata = Metadata::parse(XML).unwrap();
        assert_eq!((metadata.name.as_str(), metadata.summary.as_str()), ("thing", "A thing"));
        assert_eq!(metadata.timeout(Action::Start), Some(Millis(60_000)));
        assert_eq!(metadata.timeout(Action::Monitor), Some(Millis(40_000)));
        assert_eq!(metadata.actions[1].interval, Some(Millis(60_000)));
        assert!(!metadata.knows(Action::ValidateAll));
        assert_eq!(metadata.parameters[1].default.as_deref(), Some("5432"));
    }

    #[test]
    fn every_fault_of_the_parameters_is_named_with_a_hint() {
        let metadata = Metadata::parse(XML).unwrap();
        let resource = Resource::new("x", Class::Ocf, "thing")
            .with("port", "many")
            .with("fast", "maybe")
            .with("devise", "/dev/x");
        let problems = metadata.check(&resource);
        let codes: Vec<&str> = problems.iter().map(|problem| problem.code.as_str()).collect();
        assert_eq!(codes, ["missing-parameter", "unknown-parameter", "bad-parameter", "bad-parameter"]);
        assert_eq!(problems[1].hint.as_deref(), Some("did you mean `device`?"));
        let right = Resource::new("x", Class::Ocf, "thing").with("device", "/dev/x").with("fast", "Yes");
        assert_eq!(metadata.check(&right), []);
    }

    #[test]
    fn what_is_not_a_description_is_refused() {
        for text in ["", "<html/>", "<resource-agent", "Usage: agent start|stop"] {
            assert_eq!(Metadata::parse(text).unwrap_err().code, "agent-metadata", "{text:?}");
        }
    }
}
