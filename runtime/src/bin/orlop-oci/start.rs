//! `start`: lets a created container run.

use anyhow::Result;

use crate::arguments::Globals;

pub(crate) fn start(globals: &Globals, id: &str) -> Result<u8> {
    globals.store().find(id)?.start()?;
    Ok(0)
}
