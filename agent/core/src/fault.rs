//! What is wrong with an object: fields and messages, in the API server's words (apimachinery/pkg/util/validation/field).

use crate::{pod::Amount, syntax::Broken};

/// The most faults of one object that are told.
const MAX_FAULTS: usize = 100;
/// The longest value that is told, in characters.
const MAX_VALUE: usize = 200;

/// A field that is missing, wrong or not honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// As `spec.containers[0].image`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Faults as they are found; each once; those beyond [`MAX_FAULTS`] are dropped.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FieldError>);

impl Faults {
    /// What was found.
    pub(crate) fn into_errors(self) -> Vec<FieldError> {
        self.0
    }

    pub(crate) fn add(&mut self, path: &str, message: String) {
        if self.0.len() < MAX_FAULTS {
            self.0.push(FieldError {
                path: path.to_owned(),
                message,
            });
        }
    }

    pub(crate) fn required(&mut self, path: &str) {
        self.add(path, "Required value".to_owned());
    }

    pub(crate) fn duplicate(&mut self, path: &str, value: &str) {
        self.add(path, format!("Duplicate value: {:?}", shorten(value)));
    }

    pub(crate) fn invalid(&mut self, path: &str, value: &str, rule: &str) {
        self.add(path, format!("Invalid value: {:?}: {rule}", shorten(value)));
    }

    pub(crate) fn invalid_number(&mut self, path: &str, value: i64, rule: &str) {
        self.add(path, format!("Invalid value: {value}: {rule}"));
    }

    /// A value that must be there and follow a rule.
    pub(crate) fn check(&mut self, path: &str, value: &str, rule: impl Fn(&str) -> Broken) {
        if value.is_empty() {
            self.required(path);
        } else if let Err(broken) = rule(value) {
            self.invalid(path, value, &broken);
        }
    }

    /// A key or a value of a map, which may be empty.
    pub(crate) fn check_in(&mut self, path: &str, key: &str, value: &str, rule: impl Fn(&str) -> Broken) {
        if let Err(broken) = rule(value) {
            self.invalid(&format!("{path}[{key}]"), value, &broken);
        }
    }

    /// One of a few words; the first choice is the default.
    pub(crate) fn choose<T: Copy + Default>(&mut self, path: &str, value: Option<&str>, choices: &[(&str, T)]) -> T {
        let Some(value) = value else { return T::default() };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == value) {
            return *choice;
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let message = format!(
            "Unsupported value: {:?}: supported values: {}",
            shorten(value),
            words.join(", ")
        );
        self.add(path, message);
        T::default()
    }

    /// A user or group id.
    pub(crate) fn id(&mut self, path: &str, id: Option<i64>) -> Option<u32> {
        let id = id?;
        let fits = u32::try_from(id).ok().filter(|&id| i32::try_from(id).is_ok());
        if fits.is_none() {
            self.invalid_number(path, id, "must be between 0 and 2147483647, inclusive");
        }
        fits
    }

    /// A port number.
    pub(crate) fn port(&mut self, path: &str, number: i32) -> Option<u16> {
        let port = crate::syntax::port(number);
        if let Err(rule) = &port {
            self.invalid_number(path, number.into(), rule);
        }
        port.ok()
    }

    /// A quantity that is not negative.
    pub(crate) fn amount(&mut self, path: &str, text: &str) -> Option<Amount> {
        match Amount::parse(text) {
            Ok(amount) if !amount.is_negative() => return Some(amount),
            Ok(_) => self.invalid(path, text, "must be greater than or equal to 0"),
            Err(error) => self.invalid(path, text, &error.to_string()),
        }
        None
    }
}

fn shorten(value: &str) -> String {
    let short: String = value.chars().take(MAX_VALUE).collect();
    if short.len() < value.len() {
        short + "…"
    } else {
        short
    }
}
