//! Harness of the integration tests.
#![forbid(unsafe_code)]
