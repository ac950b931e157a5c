//! Containers that are known by name, and outlive who made them: the verbs of the OCI command line, one file each.
//!
//! What is known of a container is `<state directory>/<id>/`: `state.json`, the `config.json` that it was made from, and,
//! while it waits to be started, the two pipes of its gate. Nothing else is remembered: whether it runs, waits or has
//! ended is asked of the kernel every time ([`Status`]).

mod checkpoint;
mod create;
mod delete;
mod error;
mod events;
mod exec;
mod kill;
mod list;
mod pause;
mod ps;
mod record;
mod resctrl;
mod restore;
mod resume;
mod shown_root;
mod start;
mod state;
mod status;
mod store;
mod update;

pub use checkpoint::CheckpointOrder;
pub(super) use checkpoint::SETTINGS_ANNOTATION;
pub use create::{Bundle, CreateOrder, Fresh};
pub use error::VerbError;
pub use events::Event;
pub use exec::ExecOrder;
pub use record::{Init, Record, stamp_of_now};
pub use restore::{RestoreOrder, Restored};
pub use state::State;
pub use status::Status;
pub use store::{Named, Store};
