//! `start`: lets a created container run.

use anyhow::Result;

use crate::arguments::Globals;

pub(crate) fn start(globals: &Globals, id: &str) -> Result<u8> {
    let complaints = globals.store().find(id)?.start()?;
    globals.warn(&complaints);
    Ok(0)
}
