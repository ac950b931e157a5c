//! What can be wrong with an entry in its place, and how that is told.

use std::io;

use rustix::io::Errno;

/// Why an entry was refused, or couldn't be made.
#[derive(Debug, thiserror::Error)]
#[error("entry {path:?}: {problem}")]
pub struct UnpackError {
    path: String,
    problem: Problem,
    source: Option<io::Error>,
}

/// What is wrong with an entry in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("its path leads through a symbolic link")]
    ThroughLink,
    #[error("its path leads through something that is not a directory")]
    ThroughFile,
    #[error("a directory in place of something else in the same layer")]
    DirectoryOverOther,
    #[error("it would replace a directory that is not empty")]
    OverDirectory,
    #[error("its link target is not a file of the same layer")]
    LinkTarget,
    #[error("a whiteout that names nothing, or its own directory or parent")]
    Whiteout,
    #[error("a character device 0:0, which would hide files below")]
    WhiteoutDevice,
    #[error("the layer's root can only be a directory")]
    Root,
    #[error("its content ends early")]
    Truncated,
    #[error("more entries than the limit of {0}")]
    Entries(u64),
    #[error("make it")]
    System,
}

/// Of what is done for one entry.
pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// A problem before the entry's name is put to it.
pub(super) struct Failure(Problem, Option<io::Error>);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem, None)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(Problem::System, Some(error))
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl Failure {
    /// Says which entry it was.
    pub(super) fn at(self, path: String) -> UnpackError {
        let Self(problem, source) = self;
        UnpackError { path, problem, source }
    }
}
