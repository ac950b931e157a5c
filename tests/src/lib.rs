//! Harness of the integration tests: what a test needs, where it may work, and what it must not leave behind.
//!
//! A root test is an ordinary `#[test]` in `tests/tests/*.rs` and reads like this:
//!
//! ```no_run
//! # fn example() {
//! tests::require_root!();
//! let scratch = tests::Scratch::new("refuses-connect");
//! let node = tests::NetworkNamespace::new();
//! let audit = tests::LeakAudit::begin(&scratch, &[&node]);
//! let output = node.run(|| tests::binary("orlop").arg("version").output()).unwrap();
//! assert!(output.status.success());
//! audit.finish();
//! # }
//! ```
//!
//! It holds no tests and no product code. The same test executables run on the host and in the VM
//! (`cargo xtask test root|vm`), one process per test.
#![forbid(unsafe_code)]

mod audit;
mod binary;
mod cgroup;
mod eventually;
pub mod image;
mod namespace;
mod need;
mod processor;
mod rounds;
mod scratch;
mod systemd;

pub use audit::LeakAudit;
pub use binary::{binary, binary_path};
pub use cgroup::{cgroup_controllers, cgroup_root};
pub use eventually::{Outcome, eventually, stretched};
pub use namespace::NetworkNamespace;
pub use need::{Need, is_met};
pub use processor::{on_one_processor, rests};
pub use rounds::rounds;
pub use scratch::Scratch;
pub use systemd::Systemd;
