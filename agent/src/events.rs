//! What happened to pods and to the node, as `describe` shows it. Kept in memory and bounded; not a log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Events kept for one subject; the oldest make room.
const PER_SUBJECT: usize = 64;
/// Bytes kept of one message; the rest is cut.
const MESSAGE: usize = 1024;

/// Normal course or something to look at, in the words of `kubectl describe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// As it should be.
    Normal,
    /// Something to look at.
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A pod, by its uid.
    Pod(String),
    /// The node, its sources and its Services.
    Node,
}

/// One event; repeats are counted, not stored again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Normal or Warning.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// One word in upper camel case, as a kubelet names it.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Which part of the subject, `spec.containers{name}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Times seen.
    pub count: u32,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
}

/// All events of this agent's life. Subjects are forgotten with their pods.
#[derive(Debug, Default)]
pub struct Events {
    rings: Mutex<BTreeMap<Subject, VecDeque<Event>>>,
}

impl Events {
    /// Adds an event that is the normal course of things.
    pub fn normal(&self, subject: Subject, reason: &str, message: impl Into<String>) {
        self.add(subject, Kind::Normal, reason, message.into(), None);
    }

    /// Adds an event that somebody should look at.
    pub fn warning(&self, subject: Subject, reason: &str, message: impl Into<String>) {
        self.add(subject, Kind::Warning, reason, message.into(), None);
    }

    /// The events of a subject, oldest first.
    pub fn of(&self, subject: &Subject) -> Vec<Event> {
        self.rings()
            .get(subject)
            .map(|ring| ring.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Drops what is known of a subject that is gone.
    pub fn forget(&self, subject: &Subject) {
        self.rings().remove(subject);
    }

    /// Adds an event about a part of a subject.
    pub fn add(&self, subject: Subject, kind: Kind, reason: &str, mut message: String, field: Option<String>) {
        let now = crate::node::timestamp();
        message.truncate(message.floor_char_boundary(MESSAGE));
        let mut rings = self.rings();
        let ring = rings.entry(subject).or_default();
        let same = |event: &Event| {
            event.kind == kind && event.reason == reason && event.message == message && event.field == field
        };
        let event = match ring.iter().position(same).and_then(|at| ring.remove(at)) {
            Some(seen) => Event {
                count: seen.count.saturating_add(1),
                last_seen: now,
                ..seen
            },
            None => Event {
                kind,
                reason: reason.into(),
                message,
                field,
                count: 1,
                first_seen: now,
                last_seen: now,
            },
        };
        if ring.len() == PER_SUBJECT {
            ring.pop_front();
        }
        ring.push_back(event);
    }

    fn rings(&self) -> MutexGuard<'_, BTreeMap<Subject, VecDeque<Event>>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_counted_and_moves_to_the_end() {
        let events = Events::default();
        for reason in ["BackOff", "Pulled", "BackOff"] {
            events.warning(Subject::Node, reason, "m");
        }
        let seen: Vec<_> = events
            .of(&Subject::Node)
            .into_iter()
            .map(|event| (event.reason, event.count))
            .collect();
        assert_eq!(seen, [("Pulled".to_string(), 1), ("BackOff".to_string(), 2)]);
    }

    #[test]
    fn the_oldest_make_room() {
        let events = Events::default();
        for number in 0..PER_SUBJECT + 3 {
            events.normal(Subject::Node, "Started", number.to_string());
        }
        let seen = events.of(&Subject::Node);
        assert_eq!((seen.len(), seen[0].message.as_str()), (PER_SUBJECT, "3"));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let events = Events::default();
        events.normal(Subject::Node, "Long", "é".repeat(MESSAGE));
        assert_eq!(events.of(&Subject::Node)[0].message.len(), MESSAGE);
    }
}
