//! `podshim`: parent and supervisor of the containers of one pod.

fn main() {}
