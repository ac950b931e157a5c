//! podshim: the supervisor of one pod.

pub mod cri;
pub mod logs;
pub mod oom;
pub mod record;
