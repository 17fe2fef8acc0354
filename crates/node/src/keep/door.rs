//! Who may do what in a site's vault, by what the site's certificate and ledger say of them.
//!
//! Data nodes own the site's key domain together and trust each other's objects: each may hold the data of any service
//! tomorrow. A client from outside has a domain of its own and can add to it, and nothing else. Nobody who comes over the
//! network forgets, collects or reads what is another's.

use super::{
    link::{Doorkeeper, Pass},
    members::LedgerView,
};
use anshin_base::Problem;
use anshin_director::ClientId;
use anshin_link::Party;
use anshin_vault::{DomainId, Rights};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Under which name the objects of all data nodes count.
pub(super) const SITE_WRITER: &str = "site";

/// Which key domain belongs to whom: whoever comes with one first keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Book {
    /// The site's own, 32 hexadecimal digits.
    site: Option<String>,
    /// Those of clients, by their numbers.
    clients: BTreeMap<u64, String>,
}

/// The doorkeeper of a vault that a node of a site serves.
pub struct SiteDoor {
    ledger: LedgerView,
    file: PathBuf,
    book: Mutex<Book>,
}

impl SiteDoor {
    /// Goes by `ledger`, and keeps in `file` which key domain is whose.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(ledger: LedgerView, file: &Path) -> Result<Self, Problem> {
        let problem = |why: String| Problem::new("vault-door", format!("{}: {why}", file.display()));
        let book = match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| problem(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Book::default(),
            Err(error) => return Err(problem(error.to_string())),
        };
        Ok(Self { ledger, file: file.to_path_buf(), book: Mutex::new(book) })
    }

    /// Whether the domain is this party's; takes down that it is if nobody has it and the party has none.
    fn owns(&self, client: Option<u64>, domain: DomainId) -> Result<(), String> {
        let text = domain.to_string();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let own = match client {
            None => book.site.as_ref(),
            Some(client) => book.clients.get(&client),
        };
        if let Some(own) = own {
            return if *own == text {
                Ok(())
            } else {
                Err(format!("its key domain here is {own}, not {text}"))
            };
        }
        if book.site.as_ref() == Some(&text) || book.clients.values().any(|other| *other == text) {
            return Err(format!("key domain {text} belongs to somebody else"));
        }
        let mut next = book.clone();
        match client {
            None => next.site = Some(text),
            Some(client) => drop(next.clients.insert(client, text)),
        }
        let written = serde_json::to_vec_pretty(&next).map_err(|error| error.to_string())?;
        // Durable before it counts: after a restart nobody else may have it.
        super::write_private(&self.file, &written).map_err(|problem| problem.message)?;
        *book = next;
        Ok(())
    }
}

impl Doorkeeper for SiteDoor {
    fn admit(&self, party: &Party, domain: DomainId) -> Result<Pass, String> {
        let state = self.ledger.state().ok_or("the site's ledger has not been read yet; try again")?;
        match party {
            Party::Node(peer) => {
                let node = state.nodes.get(&peer.node).filter(|node| node.name == peer.name);
                let node = node.ok_or_else(|| format!("{peer} is no node of the site any more"))?;
                if !node.roles.data {
                    return Err(format!(
                        "{peer} stores no data of the site, so it has none to back up or to read"
                    ));
                }
                self.owns(None, domain)?;
                Ok(Pass {
                    client: peer.name.clone(),
                    writer: SITE_WRITER.into(),
                    rights: Rights::OWNER,
                    shared: false,
                })
            }
            Party::Client(client) => {
                let known = state.director.records().clients.get(&ClientId(client.client));
                let known = known.filter(|known| known.name.0 == client.name);
                let known = known.ok_or_else(|| format!("{} is no client of the site", client.name))?;
                if known.revoked.is_some() {
                    return Err(format!("the right of client {} was taken back", client.name));
                }
                self.owns(Some(client.client), domain)?;
                Ok(Pass {
                    client: client.name.clone(),
                    writer: client.name.clone(),
                    rights: Rights::PUSH,
                    shared: false,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::{LedgerIndex, NodeId, VoterId};
    use anshin_director::{
        UnixMillis,
        record::{Change, ClientToken, NewClient},
    };
    use anshin_ledger::{
        Command, State,
        state::{Node, Roles},
    };
    use anshin_link::{ClientIdentity, PeerIdentity, SiteId};

    fn view() -> LedgerView {
        let mut state = State::default();
        for (id, name, data) in [(1, "a", true), (2, "b", true), (3, "c", false)] {
            let node = Node {
                id: NodeId(id),
                name: name.into(),
                addresses: Vec::new(),
                ports: Default::default(),
                roles: Roles { data, witness: !data, ..Roles::default() },
                voter: VoterId(u64::from(id)),
                fingerprint: String::new(),
                state: Default::default(),
                attributes: BTreeMap::new(),
            };
            state.nodes.insert(NodeId(id), node);
        }
        for id in [1, 2, 9] {
            let hash = format!("token{id}");
            let token = ClientToken { hash: hash.clone(), name: None, expires: UnixMillis(10) };
            let name = format!("laptop{id}");
            let client =
                NewClient { name: name.as_str().into(), fingerprint: name, platform: "linux".into() };
            let joined = [
                Change::AddClientToken { token, at: UnixMillis(0) },
                Change::JoinClient { token: hash, at: UnixMillis(0), client },
            ];
            for change in joined {
                state.apply(LedgerIndex(id), &Command::Director(change)).unwrap();
            }
        }
        let revoked = Change::RevokeClient { client: ClientId(3), at: UnixMillis(1) };
        state.apply(LedgerIndex(10), &Command::Director(revoked)).unwrap();
        let view = LedgerView::new();
        view.show(state);
        view
    }

    fn node(id: u32, name: &str) -> Party {
        Party::Node(PeerIdentity { site: SiteId([1; 16]), node: NodeId(id), name: name.into() })
    }

    fn client(client: u64) -> Party {
        Party::Client(ClientIdentity {
            site: SiteId([1; 16]),
            client,
            name: format!("laptop{}", [1, 2, 9][client as usize - 1]),
        })
    }

    #[test]
    fn data_nodes_share_the_sites_domain_and_each_client_has_its_own() {
        let directory = std::env::temp_dir().join(format!("anshin-door-{}", std::process::id()));
        let file = directory.join("main.json");
        let (site, other, third) = (DomainId([1; 16]), DomainId([2; 16]), DomainId([3; 16]));
        let door = SiteDoor::open(view(), &file).unwrap();
        let pass = door.admit(&node(1, "a"), site).unwrap();
        assert_eq!((pass.rights, pass.client.as_str()), (Rights::OWNER, "a"));
        assert_eq!(door.admit(&node(2, "b"), site).unwrap().writer, pass.writer);
        assert!(door.admit(&node(2, "b"), other).unwrap_err().contains("its key domain here is"));
        assert!(door.admit(&node(3, "c"), site).unwrap_err().contains("stores no data"));
        assert!(door.admit(&node(4, "d"), site).unwrap_err().contains("no node of the site any more"));
        assert!(door.admit(&node(1, "impostor"), site).is_err());

        assert!(door.admit(&client(1), site).unwrap_err().contains("belongs to somebody else"));
        assert_eq!(door.admit(&client(1), other).unwrap().rights, Rights::PUSH);
        assert!(door.admit(&client(2), other).is_err());
        door.admit(&client(2), third).unwrap();
        assert!(door.admit(&client(3), DomainId([4; 16])).unwrap_err().contains("taken back"));

        // A restart changes nothing.
        let door = SiteDoor::open(view(), &file).unwrap();
        assert!(door.admit(&client(2), other).is_err());
        assert!(door.admit(&node(1, "a"), third).is_err());
        door.admit(&node(1, "a"), site).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn nobody_comes_in_before_the_ledger_is_known() {
        let door = SiteDoor::open(LedgerView::new(), Path::new("/nonexistent/main.json")).unwrap();
        assert!(door.admit(&node(1, "a"), DomainId([1; 16])).unwrap_err().contains("try again"));
    }
}
