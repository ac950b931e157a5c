//! `create`: a container that waits to be started when this process has gone.

use anyhow::Result;

use crate::arguments::{Globals, Word, next, required_id};
use crate::making::Making;

#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) making: Making,
}

impl Create {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let mut making = Making::default();
        making.bundle = ".".into();
        let mut id = None;
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => id = Some(value),
                word @ (Word::Flag(_) | Word::Value(_)) => making.take(&word, &mut parser)?,
            }
        }
        making.id = required_id("create", id)?;
        Ok(Self { making })
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        self.making.make(globals, true, false)?.leave()?;
        Ok(0)
    }
}
