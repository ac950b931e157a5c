//! PID 1 of the test VM.
#![forbid(unsafe_code)]

fn main() {}
