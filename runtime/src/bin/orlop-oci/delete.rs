//! `delete`: the end of a container.

use anyhow::Result;

use crate::arguments::{Globals, Word, is_on, next, required_id, unexpected};

#[derive(Debug)]
pub(crate) struct Delete {
    id: String,
    force: bool,
}

impl Delete {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut id, mut force) = (None, false);
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => id = Some(value),
                Word::Flag(flag) if flag == "f" || flag == "force" => force = is_on(&mut parser)?,
                word @ (Word::Flag(_) | Word::Value(_)) => return Err(unexpected(&word)),
            }
        }
        let id = required_id("delete", id)?;
        Ok(Self { id, force })
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        let complaints = globals.store().delete(&self.id, self.force)?;
        globals.warn(&complaints);
        Ok(0)
    }
}
