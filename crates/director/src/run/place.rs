//! Where a run must be executed now.

use super::Observed;
use crate::{
    plan::Locus,
    record::{Place, Records},
};
use anshin_base::NodeId;

/// The place where a locus is now and the present start of its daemon, or why it is nowhere.
///
/// # Errors
/// One sentence for people.
pub fn whereabouts(locus: &Locus, records: &Records, observed: &Observed) -> Result<(Place, u64), String> {
    match locus {
        Locus::Service(name) => {
            let known = observed.inventory.services.iter().find(|service| service.name == *name);
            let known = known.ok_or_else(|| format!("there is no service {name}"))?;
            let volume = known.volume.as_ref().and_then(|volume| observed.volumes.get(volume));
            let node = observed.services.get(name).or(volume);
            on_node(*node.ok_or_else(|| format!("service {name} runs nowhere; waits for it"))?, observed)
        }
        Locus::Volume(name) => {
            let node = observed.volumes.get(name);
            on_node(*node.ok_or_else(|| format!("volume {name} has no primary; waits for one"))?, observed)
        }
        Locus::Machine(name) => {
            if let Some((id, _)) = observed.nodes.iter().find(|(_, node)| node.name == *name) {
                return on_node(*id, observed);
            }
            let client = records.client_named(name).ok_or_else(|| format!("there is no machine {name}"))?;
            let seen = observed.clients.get(&client.id);
            let seen = seen.ok_or_else(|| format!("client {name} is not connected; waits for it"))?;
            Ok((Place::Client(client.id), seen.session))
        }
    }
}

fn on_node(id: NodeId, observed: &Observed) -> Result<(Place, u64), String> {
    let node = observed.nodes.get(&id).ok_or_else(|| format!("node {id} is not known"))?;
    if !node.alive {
        return Err(format!("node {} is down; waits for it or for another node to take over", node.name));
    }
    let session = node.session.ok_or_else(|| format!("the daemon of node {} does not answer", node.name))?;
    Ok((Place::Node(id), session))
}

/// A place by its name.
pub(crate) fn name(place: Place, records: &Records, observed: &Observed) -> String {
    match place {
        Place::Node(id) => {
            observed.nodes.get(&id).map_or_else(|| id.to_string(), |node| format!("node {}", node.name))
        }
        Place::Client(id) => records
            .clients
            .get(&id)
            .map_or_else(|| id.to_string(), |client| format!("client {}", client.name)),
    }
}
