//! `list`: every container of a state directory.

use super::{State, Store, VerbError};

impl Store {
    /// The states of all containers, by id. Those that vanish meanwhile are not in it; what can't be read is in the
    /// second list.
    pub fn list(&self) -> Result<(Vec<State>, Vec<VerbError>), VerbError> {
        let (mut states, mut failed) = (Vec::new(), Vec::new());
        for id in self.ids()? {
            match self.find(&id).and_then(|named| named.state()) {
                Ok(state) => states.push(state),
                Err(VerbError::Unknown { .. }) => {}
                Err(error) => failed.push(error),
            }
        }
        Ok((states, failed))
    }
}
