//! `anshin client …`: machines outside the site.

use super::{
    args::{Client, ClientToken},
    secrets::HandOver,
    show,
};
use crate::cli::out::{Ending, Out};
use anshin_base::Problem;
use anshin_node::{
    keep::client::{self, ClientFile},
    paths::Paths,
};
use serde::Serialize;

/// How long a token can be used unless asked otherwise: somebody has to walk to the other machine.
const TOKEN_VALID_S: u64 = 24 * 3_600;

/// A token was made.
#[derive(Debug, Serialize)]
pub struct TokenDone {
    /// The token.
    pub token: String,
    /// Until when it can be used, in seconds of Unix time.
    pub expires: u64,
}

/// A machine became a client.
#[derive(Debug, Serialize)]
pub struct JoinDone {
    /// What it keeps of that.
    #[serde(flatten)]
    pub client: ClientFile,
    /// The recovery key, unless it was handed over otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
}

/// Carries out `anshin client …`.
///
/// # Errors
/// What failed.
pub fn carry_out(command: Client, out: &Out) -> Result<Ending, Problem> {
    let paths = Paths::of_environment();
    match command {
        Client::Token(ClientToken::Create { name, valid }) => {
            let valid = valid.map_or(TOKEN_VALID_S, |span| span.0);
            let (token, expires) = client::create_token(&paths, name.as_deref(), valid)?;
            let done = TokenDone { token: token.to_string(), expires };
            out.show(&done, |_| show::client_token(&done))?;
        }
        Client::Join { token, name, recovery_key_file, yes } => {
            let hand_over = HandOver::of(recovery_key_file.as_deref(), yes)?;
            let mut printed = None;
            let client = client::join(&paths, &token, name.as_deref(), |key| {
                printed = matches!(hand_over, HandOver::Printed).then(|| key.to_string());
                hand_over.carry_out(key)
            })?;
            let done = JoinDone { client, recovery_key: printed };
            out.show(&done, |style| show::client_joined(style, &done))?;
        }
    }
    Ok(Ending::Ok)
}
