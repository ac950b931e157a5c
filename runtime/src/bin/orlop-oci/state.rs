//! `state`: what is known of a container, as JSON.

use anyhow::Result;

use crate::arguments::Globals;

pub(crate) fn state(globals: &Globals, id: &str) -> Result<u8> {
    let state = globals.store().find(id)?.state()?;
    crate::print(&serde_json::to_string_pretty(&state)?)
}
