//! The hands: a blocking rtnetlink socket that has batches of steps done and reads tables. It decides nothing.
//!
//! A batch is one `sendmsg`. The kernel works it off before the call returns, with the answers waiting, so nothing here
//! ever waits for anybody, and a kill can't stop a batch half-way.

use std::{io, os::fd::BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use crate::{
    message::{Table, encode, encode_dump},
    step::LinkStep,
};

/// Bytes of one read of all links: many at once, and one with many names is large.
const LINKS_BYTES: usize = 32 << 10;
/// Bytes of one read of anything else, which the kernel makes no larger for a reader who asked for no more. On the stack,
/// for a plugin's heap is new: what it takes of it, the kernel has to make first.
pub(crate) const ANSWER_BYTES: usize = 8 << 10;
/// Bytes that the largest of a pod's batches fits into; of a larger one the kernel is asked for more.
const BATCH_BYTES: usize = 1 << 10;
/// How often a table is read again that changed while it was read.
const DUMP_TRIES_MAX: u32 = 20;
/// `MSG_DONTWAIT`: an answer that is not there was lost.
const DONT_WAIT: i32 = 0x40;

/// A socket in one network namespace.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
}

/// Which step of a batch the kernel refused first; the steps behind it were tried all the same.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct StepError {
    /// The step.
    pub step: LinkStep,
    /// The kernel's answer.
    pub source: Refusal,
}

/// What the kernel answered instead of doing it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The number.
    pub errno: Errno,
    /// The kernel's own words, where it has any.
    pub words: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let description = self.errno.desc().to_lowercase();
        match &self.words {
            Some(words) => write!(f, "{description} ({})", words.trim_end_matches('.')),
            None => write!(f, "{description}"),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            errno: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
            words: None,
        }
    }
}

impl Connection {
    /// Opens a socket in the network namespace of the calling thread; it stays there, wherever it is used.
    ///
    /// # Errors
    /// When the kernel has no more sockets for us.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket })
    }

    /// Has the steps done, in order. Answers with the payload of the last link that was shown. `pod` is the namespace
    /// that [`LinkStep::CreatePair`] puts the other end into.
    ///
    /// # Errors
    /// The first refusal that its step does not tolerate.
    pub fn perform(&self, steps: &[LinkStep], pod: Option<BorrowedFd<'_>>) -> Result<Option<Vec<u8>>, Box<StepError>> {
        let Some(last) = steps.last() else { return Ok(None) };
        let failed = |step: &LinkStep, source| {
            Box::new(StepError {
                step: step.clone(),
                source,
            })
        };
        let answers = self.exchange(steps, pod).map_err(|source| failed(last, source))?;
        let refused = answers.refusals.into_iter().find_map(|(number, refusal)| {
            let step = steps.get(place(number)?)?;
            (!step.tolerates(refusal.errno)).then(|| failed(step, refusal))
        });
        let shown = answers.payloads.into_iter().last();
        refused.map_or(Ok(shown.map(|(_, payload)| payload)), Err)
    }

    /// Has questions answered in one go, each with its payload or the kernel's refusal, in their order.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn ask(&self, questions: &[LinkStep]) -> Result<Vec<Result<Vec<u8>, Refusal>>, Refusal> {
        let all = self.exchange(questions, None)?;
        let silence = || Refusal {
            errno: Errno::ENOMSG,
            words: None,
        };
        let mut answers: Vec<_> = questions.iter().map(|_| Err(silence())).collect();
        let refusals = all.refusals.into_iter().map(|(number, refusal)| (number, Err(refusal)));
        let payloads = all.payloads.into_iter().map(|(number, payload)| (number, Ok(payload)));
        for (number, answer) in refusals.chain(payloads) {
            if let Some(place) = place(number).and_then(|place| answers.get_mut(place)) {
                *place = answer;
            }
        }
        Ok(answers)
    }

    fn exchange(&self, steps: &[LinkStep], pod: Option<BorrowedFd<'_>>) -> Result<Answers, Refusal> {
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        for (number, step) in (1..).zip(steps) {
            let (message, flags) = encode(step, pod);
            // A question is answered anyway.
            let is_waited_for = number == count(steps) && !step.is_question();
            let ack = if is_waited_for { NLM_F_ACK } else { 0 };
            append(&mut batch, message, NLM_F_REQUEST | flags | ack, number);
        }
        self.send(&batch)?;
        self.answers(count(steps), &mut [0; ANSWER_BYTES])
    }

    /// The payload of one link; `None` when it is not there.
    ///
    /// # Errors
    /// When the kernel refuses to look.
    pub fn show(&self, step: LinkStep) -> Result<Option<Vec<u8>>, Box<StepError>> {
        match self.perform(&[step], None) {
            Err(error) if error.source.errno == Errno::ENODEV => Ok(None),
            answer => answer,
        }
    }

    /// The payloads of a table's entries. A table that changes meanwhile is read again.
    ///
    /// # Errors
    /// When the kernel refuses, or the table never stays the same (`EAGAIN`).
    pub fn dump(&self, table: Table) -> Result<Vec<Vec<u8>>, Refusal> {
        let mut request = Vec::new();
        append(&mut request, encode_dump(table), NLM_F_REQUEST | NLM_F_DUMP, 1);
        let (mut usual, mut large) = ([0; ANSWER_BYTES], Vec::new());
        let buffer = if table == Table::Links {
            large.resize(LINKS_BYTES, 0);
            &mut large[..]
        } else {
            &mut usual[..]
        };
        for _ in 0..DUMP_TRIES_MAX {
            self.send(&request)?;
            let answers = self.answers(1, buffer)?;
            match answers.refusals.into_iter().next() {
                Some((_, refusal)) if refusal.errno != Errno::EINTR => return Err(refusal),
                None if !answers.is_inconsistent => {
                    return Ok(answers.payloads.into_iter().map(|(_, payload)| payload).collect());
                }
                Some(_) | None => {}
            }
        }
        Err(Refusal {
            errno: Errno::EAGAIN,
            words: Some("the table changes too fast to be read".to_owned()),
        })
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0)?;
        debug_assert_eq!(sent, bytes.len(), "a datagram is sent whole or not at all");
        Ok(())
    }

    /// Reads until the message with number `last` is answered for.
    fn answers(&self, last: u32, buffer: &mut [u8]) -> Result<Answers, Refusal> {
        let mut answers = Answers::default();
        while !answers.is_done {
            let length = self.socket.recv(&mut &mut *buffer, DONT_WAIT)?;
            answers.read(&buffer[..length], last);
        }
        Ok(answers)
    }
}

fn count(steps: &[LinkStep]) -> u32 {
    u32::try_from(steps.len()).expect("a batch has a handful of steps")
}

/// Where the step of that message stands among the steps.
fn place(number: u32) -> Option<usize> {
    number.checked_sub(1).map(|place| place as usize)
}

fn append(batch: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, number: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = number;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    // Asking a message for its length costs as much as writing it.
    let (begin, length) = (batch.len(), message.header.length as usize);
    batch.resize(begin + length.next_multiple_of(4), 0);
    message.serialize(&mut batch[begin..begin + length]);
}

/// What came back for a batch or a dump.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Number of the message, and why it was refused.
    pub(crate) refusals: Vec<(u32, Refusal)>,
    /// Number of the message, and an entry that it was answered with, without the netlink header.
    pub(crate) payloads: Vec<(u32, Vec<u8>)>,
    /// The table changed while it was read.
    pub(crate) is_inconsistent: bool,
    /// The last message is answered for.
    pub(crate) is_done: bool,
}

impl Answers {
    pub(crate) fn read(&mut self, mut datagram: &[u8], last: u32) {
        const HEADER: usize = 16;
        const NLMSG_ERROR: u16 = 2;
        const NLMSG_DONE: u16 = 3;
        while let Some(header) = datagram.get(..HEADER) {
            let length = u32_of(header) as usize;
            let (kind, flags) = (u16_of(&header[4..]), u16_of(&header[6..]));
            let number = u32_of(&header[8..]);
            let Some(payload) = datagram.get(HEADER..length) else {
                return;
            };
            self.is_inconsistent |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    self.is_done |= number == last;
                    self.refusals
                        .extend(refusal(payload, flags, kind == NLMSG_DONE).map(|refusal| (number, refusal)));
                }
                _ => {
                    // The only answer to a question, where it is none of a table's entries.
                    self.is_done |= number == last && flags & NLM_F_MULTIPART == 0;
                    self.payloads.push((number, payload.to_vec()));
                }
            }
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// `struct nlmsgerr` with its trailing attributes, or the end of a dump; `None` for an acknowledgement.
fn refusal(payload: &[u8], flags: u16, is_end_of_dump: bool) -> Option<Refusal> {
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let errno = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?)
        .checked_neg()
        .filter(|errno| *errno != 0)?;
    // An error is followed by the header of the request, without its payload as NETLINK_CAP_ACK is on.
    let attributes = if is_end_of_dump { 4 } else { 20 };
    let attributes = if flags & NLM_F_ACK_TLVS != 0 {
        payload.get(attributes..)?
    } else {
        &[]
    };
    let mut attributes = netlink_packet_core::NlasIterator::new(attributes).filter_map(Result::ok);
    let words = attributes.find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG);
    let words = words.map(|words| String::from_utf8_lossy(words.value()).trim_end_matches('\0').to_owned());
    Some(Refusal {
        errno: Errno::from_raw(errno),
        words,
    })
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn u16_of(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, flags: u16, number: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let header = [
            &length.to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &flags.to_ne_bytes(),
            &number.to_ne_bytes(),
        ];
        let mut bytes = [&header.concat()[..], &[0; 4], payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn read(datagram: &[u8], last: u32) -> Answers {
        let mut answers = Answers::default();
        answers.read(datagram, last);
        answers
    }

    #[test]
    fn a_refusal_in_the_middle_is_kept_and_the_end_waits_for_the_last() {
        let attribute = [&9u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), b"busy\0"].concat();
        let refused = [&(-17i32).to_ne_bytes()[..], &[0; 16], &attribute].concat();
        let mut datagram = message(2, 0x200, 3, &refused);
        assert!(!read(&datagram, 8).is_done);
        datagram.extend(message(16, 0, 8, b"link"));
        datagram.extend(message(2, 0, 8, &[0; 20]));
        let answers = read(&datagram, 8);
        let expected = Refusal {
            errno: Errno::EEXIST,
            words: Some("busy".to_owned()),
        };
        assert_eq!(answers.refusals, [(3, expected)]);
        assert_eq!((answers.payloads, answers.is_done), (vec![(8, b"link".to_vec())], true));
    }

    #[test]
    fn a_question_is_answered_by_one_entry_and_a_table_by_its_end() {
        assert!(read(&message(16, 0, 1, b"link"), 1).is_done);
        assert!(!read(&message(16, 0, 1, b"link"), 2).is_done);
        assert!(!read(&message(16, NLM_F_MULTIPART, 1, b"link"), 1).is_done);
    }

    #[test]
    fn a_table_that_changed_meanwhile_is_known_by_its_flag() {
        let entry = message(16, NLM_F_DUMP_INTR | NLM_F_MULTIPART, 1, b"link");
        let end = message(3, 0, 1, &[0; 4]);
        let answers = read(&[entry, end].concat(), 1);
        assert!(answers.is_inconsistent && answers.is_done && answers.refusals.is_empty());
    }

    #[test]
    fn a_refusal_reads_as_a_sentence() {
        let refusal = |words: Option<&str>| Refusal {
            errno: Errno::EEXIST,
            words: words.map(str::to_owned),
        };
        assert_eq!(refusal(None).to_string(), "file exists");
        assert_eq!(
            refusal(Some("Name is taken.")).to_string(),
            "file exists (Name is taken)"
        );
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_reader_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            kind in 0u16..20,
            flags: u16,
        ) {
            read(&bytes, 1);
            read(&message(kind, flags, 1, &bytes), 1);
        }
    }
}
