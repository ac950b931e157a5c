//! Waiting for something to become true, with a limit and with the last reason why it was not.
//!
//! Limits are for the machine that tests are written on. Where everything is slower, as under emulation, `ORLOP_SLOWNESS`
//! says by how much and all limits are stretched.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// What a probe may return: `bool`, `Option` or `Result`.
pub trait Outcome {
    /// What is there when the wait is over.
    type Value;

    /// The value, or why to go on waiting.
    ///
    /// # Errors
    /// The reason to wait, as the failure will show it.
    fn settle(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();

    fn settle(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("it was false".to_owned()) }
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;

    fn settle(self) -> Result<T, String> {
        self.ok_or_else(|| "there was none".to_owned())
    }
}

impl<T, E: Debug> Outcome for Result<T, E> {
    type Value = T;

    fn settle(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// A limit, stretched by `ORLOP_SLOWNESS`: for every time that a test gives something to happen.
pub fn stretched(limit: Duration) -> Duration {
    let factor = std::env::var("ORLOP_SLOWNESS")
        .ok()
        .and_then(|factor| factor.parse().ok());
    limit * factor.unwrap_or(1)
}

/// Probes until it succeeds and returns its value.
///
/// # Panics
/// After `timeout` ([`stretched`]), with `what` and the last outcome.
#[track_caller]
pub fn eventually<O: Outcome>(timeout: Duration, what: &str, mut probe: impl FnMut() -> O) -> O::Value {
    let timeout = stretched(timeout);
    let start = Instant::now();
    loop {
        match probe().settle() {
            Ok(value) => return value,
            Err(last) if start.elapsed() >= timeout => panic!("not within {timeout:?}: {what}; at last: {last}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_value_as_soon_as_there_is_one() {
        let mut tries = 0;
        let value = eventually(Duration::from_secs(5), "third try", || {
            tries += 1;
            (tries == 3).then_some(tries)
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "the moon; at last: \"still night\"")]
    fn panics_with_the_last_reason() {
        eventually(Duration::from_millis(1), "the moon", || Err::<(), _>("still night"));
    }
}
