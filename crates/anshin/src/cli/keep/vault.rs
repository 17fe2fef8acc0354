//! `anshin vault …`.

use super::{
    args::{Keys, Vault, VaultInit, Which},
    secrets::{HandOver, read_passphrase, read_recovery_key},
    show,
};
use crate::cli::out::{Ending, Out};
use anshin_base::Problem;
use anshin_capture::browse;
use anshin_director::VaultName;
use anshin_node::{
    keep::{
        Access, Answer, Chosen, Keyring, Task, VaultSettings, access, administer,
        administer::{VaultStatus, Verified},
        host_name,
        keyring::OpenDomain,
        make,
    },
    paths::Paths,
};
use anshin_vault::{ChunkId, RecoveryKey, Secret, SlotKind, SnapshotId, VerifyOptions};
use serde::Serialize;
use std::{collections::HashSet, path::Path};

/// Files that are named for each damaged snapshot; beyond, they are only counted.
const FILES_NAMED_MAX: usize = 1000;

/// Carries out `anshin vault …`.
///
/// # Errors
/// What failed.
pub fn carry_out(command: Vault, out: &Out) -> Result<Ending, Problem> {
    match command {
        Vault::Init(asked) => init(&asked, out),
        Vault::Status { which } => status(&which, out),
        Vault::Verify { which, keys } => verify(&which, keys, out),
        Vault::Gc { which } => {
            let access = open(&which)?;
            let Answer::Collected(done) = access.administer(&Task::Gc)? else { return Err(odd_answer()) };
            out.show(&done, |_| show::collected(&done))?;
            Ok(Ending::Ok)
        }
        Vault::Keys(command) => keys(command, out),
    }
}

/// Opens the vault that is meant.
///
/// # Errors
/// As [`Chosen::choose`] and [`Chosen::open`].
pub fn open(which: &Which) -> Result<Access, Problem> {
    let paths = Paths::of_environment();
    Chosen::choose(&paths, which.vault.as_deref())?.open(&paths)
}

/// The keys on this machine.
///
/// # Errors
/// A key that cannot be read.
pub fn keyring(which: &Which) -> Result<Keyring, Problem> {
    Keyring::open(&Paths::of_environment(), which.key_file.as_deref())
}

/// What to say of an answer that is none to the question.
pub fn odd_answer() -> Problem {
    Problem::new("answer", "the vault answered something else than was asked")
        .hint("the command and the vault's process may be of different versions: see `anshin version`")
}

/// A vault was made.
#[derive(Debug, Serialize)]
pub struct InitDone {
    /// Its name on this machine.
    pub name: String,
    /// Where it lies.
    pub place: String,
    /// Its id.
    pub id: String,
    /// The key domain that this machine has in it; None if it holds the store only.
    pub domain: Option<String>,
    /// The file of this machine's key.
    pub key_file: Option<String>,
    /// The recovery key, unless it was handed over otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
    /// The file that it was written into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_key_file: Option<String>,
    /// The object store's credentials were kept with the vault's settings.
    pub credentials_kept: bool,
}

fn init(asked: &VaultInit, out: &Out) -> Result<Ending, Problem> {
    let paths = Paths::of_environment();
    let settings = VaultSettings::of_environment(&access::whole_place(&asked.place)?);
    let credentials_kept = settings.secret_key.is_some();
    let wanted = make::Make {
        settings,
        name: VaultName::checked(&asked.name)?,
        machine: host_name(),
        attach: asked.attach,
    };
    let mut keyring = Keyring::open(&paths, asked.key_file.as_deref())?;
    let hand_over = match make::holds_keys(&paths, &keyring)? {
        true => HandOver::of(asked.recovery_key_file.as_deref(), asked.yes)?,
        false => HandOver::Printed,
    };
    let mut printed: Option<RecoveryKey> = None;
    let made = make::make(&paths, &mut keyring, &wanted, |key| {
        printed = matches!(hand_over, HandOver::Printed).then(|| key.clone());
        hand_over.carry_out(key)
    })?;
    let done = InitDone {
        name: asked.name.clone(),
        place: made.vault.place(),
        id: made.vault.name(),
        key_file: made.domain.is_some().then(|| keyring.file().display().to_string()),
        domain: made.domain,
        recovery_key: printed.map(|key| key.to_string()),
        recovery_key_file: asked.recovery_key_file.as_ref().map(|path| path.display().to_string()),
        credentials_kept,
    };
    out.show(&done, |style| show::init_done(style, &done))?;
    Ok(Ending::Ok)
}

/// What `anshin vault status` tells.
#[derive(Debug, Serialize)]
pub struct StatusShown {
    /// Its name on this machine.
    pub vault: String,
    /// In numbers.
    #[serde(flatten)]
    pub status: VaultStatus,
    /// The key domain that this machine can read.
    pub opens: Option<String>,
    /// Why it can read none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<Problem>,
    /// This machine serves it to its site and needs no key for that.
    pub served: bool,
}

fn status(which: &Which, out: &Out) -> Result<Ending, Problem> {
    let access = open(which)?;
    let Answer::Status(status) = access.administer(&Task::Status)? else { return Err(odd_answer()) };
    let unlocked = keyring(which).and_then(|keyring| access.unlock(&keyring));
    let (opens, locked) = match unlocked {
        Ok(domain) => (Some(domain.keys.domain().to_string()), None),
        // That is how it is meant: who keeps the backups cannot read them.
        Err(_) if access.served() => (None, None),
        Err(problem) => (None, Some(problem)),
    };
    let shown =
        StatusShown { vault: access.called().to_owned(), status, opens, locked, served: access.served() };
    out.show(&shown, |style| show::status(style, &shown))?;
    let papered = shown.status.domains.iter().all(|domain| domain.recovery);
    Ok(if shown.locked.is_none() && papered { Ending::Ok } else { Ending::Degraded })
}

fn verify(which: &Which, keys: bool, out: &Out) -> Result<Ending, Problem> {
    let access = open(which)?;
    // Without --keys the key only serves to name files, and its loss is no reason not to verify.
    let domain = match (keyring(which).and_then(|keyring| access.unlock(&keyring)), keys) {
        (Ok(domain), _) => Some(domain),
        (Err(problem), true) => return Err(problem),
        (Err(_), false) => None,
    };
    let options =
        VerifyOptions { keys: domain.iter().filter(|_| keys).map(|domain| domain.keys.clone()).collect() };
    let mut verified = administer::verify(access.vault()?, &options)?;
    if let Some(domain) = &domain {
        name_files(&access, domain, &mut verified)?;
    }
    out.show(&verified, |style| show::verified(style, &verified, domain.is_some()))?;
    Ok(if verified.good { Ending::Ok } else { Ending::Degraded })
}

/// Names the files that lost objects concern, in the snapshots that this machine can read.
fn name_files(access: &Access, domain: &OpenDomain, verified: &mut Verified) -> Result<(), Problem> {
    let own = domain.keys.domain().to_string();
    if verified.damaged.iter().all(|damaged| damaged.domain != own) {
        return Ok(());
    }
    let session = access.session(domain, &domain.file.name)?;
    let snapshots = session.keeper().snapshots()?;
    for damaged in verified.damaged.iter_mut().filter(|damaged| damaged.domain == own) {
        let id = SnapshotId::parse(&damaged.snapshot);
        let Some(snapshot) = snapshots.iter().find(|snapshot| Some(snapshot.record.id) == id) else {
            continue;
        };
        let lost: HashSet<ChunkId> = damaged.lost.iter().filter_map(|id| ChunkId::parse(id)).collect();
        let found = browse::affected(&session, &snapshot.record.root, &lost, FILES_NAMED_MAX)?;
        damaged.files = found.iter().map(|path| format!("/{}", path.escape_ascii())).collect();
    }
    Ok(())
}

/// A way to open a key domain.
#[derive(Debug, Serialize)]
pub struct KeyShown {
    /// Of which domain.
    pub domain: String,
    /// The domain's name.
    pub name: String,
    /// Its number in the domain's list, from 1.
    pub number: usize,
    /// `machine`, `passphrase` or `recovery`.
    pub kind: &'static str,
    /// What it is called.
    pub label: String,
    /// Whether this machine's key opens it.
    pub here: bool,
}

fn keys_of(access: &Access, keyring: &Keyring) -> Result<Vec<KeyShown>, Problem> {
    let mut shown = Vec::new();
    for file in access.key_files()? {
        let opens = keyring.machine().is_some_and(|key| file.unlock(key.secret()).is_ok());
        for (at, slot) in file.slots.iter().enumerate() {
            let kind = match slot.kind {
                SlotKind::Machine => "machine",
                SlotKind::Passphrase => "passphrase",
                SlotKind::Recovery => "recovery",
            };
            shown.push(KeyShown {
                domain: file.domain.to_string(),
                name: file.name.clone(),
                number: at + 1,
                kind,
                label: slot.label.clone(),
                here: opens && keyring.machine().is_some_and(|key| slot.opens(file.domain, key.secret())),
            });
        }
    }
    Ok(shown)
}

fn keys(command: Keys, out: &Out) -> Result<Ending, Problem> {
    let which = match &command {
        Keys::List { which }
        | Keys::Add { which, .. }
        | Keys::Remove { which, .. }
        | Keys::Recover { which, .. } => which.clone(),
    };
    let access = open(&which)?;
    let mut ring = keyring(&which)?;
    match command {
        Keys::List { .. } => {}
        Keys::Add { passphrase_file, recovery_key_file, label, .. } => {
            let domain = access.unlock(&ring)?;
            add(&access, &domain, passphrase_file.as_deref(), recovery_key_file.as_deref(), label)?;
        }
        Keys::Remove { number, .. } => {
            let domain = access.unlock(&ring)?;
            let file = access.key_file_of(&domain.keys)?.without_slot(number.wrapping_sub(1), now())?;
            access.store_key_file(&file)?;
        }
        Keys::Recover { recovery_key_file, passphrase_file, .. } => {
            let (recovery, passphrase);
            let secret = match passphrase_file {
                Some(file) => {
                    passphrase = read_passphrase(&file)?;
                    Secret::Passphrase(&passphrase)
                }
                None => {
                    recovery = read_recovery_key(recovery_key_file.as_deref())?;
                    Secret::Recovery(&recovery)
                }
            };
            make::recover(access.vault()?, &mut ring, secret, &host_name())?;
        }
    }
    let shown = keys_of(&access, &ring)?;
    out.show(&shown, |style| show::keys(style, &shown))?;
    Ok(Ending::Ok)
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn add(
    access: &Access,
    domain: &OpenDomain,
    passphrase_file: Option<&Path>,
    recovery_key_file: Option<&Path>,
    label: Option<String>,
) -> Result<(), Problem> {
    let (recovery, passphrase);
    let (secret, usual) = match (passphrase_file, recovery_key_file) {
        (Some(file), _) => {
            passphrase = read_passphrase(file)?;
            (Secret::Passphrase(&passphrase), "passphrase")
        }
        (None, file) => {
            recovery = RecoveryKey::generate()?;
            HandOver::of(file, false)?.carry_out(&recovery)?;
            (Secret::Recovery(&recovery), "printed")
        }
    };
    let label = label.unwrap_or_else(|| usual.to_owned());
    let file = access.key_file_of(&domain.keys)?.with_slot(&domain.keys, secret, &label, now())?;
    access.store_key_file(&file)
}
