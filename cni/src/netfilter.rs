//! The hands for nf_tables: a blocking netlink socket that has a batch of steps done, all or none, and lists sets. It
//! decides nothing.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use crate::{
    netlink::{ANSWER_BYTES, Answers, Refusal},
    nft::{Element, NftStep, batch_frame, decode_elements, encode},
};

/// How often a set is listed again that changed while it was listed.
const LIST_TRIES_MAX: u32 = 20;
/// `MSG_DONTWAIT`: the kernel answers before the request returns.
const DONT_WAIT: i32 = 0x40;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

/// A socket to the nf_tables of one network namespace.
#[derive(Debug)]
pub struct Netfilter {
    socket: Socket,
}

/// Which step of a batch the kernel refused; nothing of the batch was done.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct NftError {
    /// The step.
    pub step: NftStep,
    /// The kernel's answer.
    pub source: Refusal,
}

impl Netfilter {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` where the kernel has no netfilter.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_NETFILTER)?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Self { socket })
    }

    /// Has the steps done in one table, all or none.
    ///
    /// # Errors
    /// The first refusal.
    pub fn perform(&self, table: &str, steps: &[NftStep]) -> Result<(), Box<NftError>> {
        let Some(last) = steps.last() else { return Ok(()) };
        let failed = |step: &NftStep, source| {
            Box::new(NftError {
                step: step.clone(),
                source,
            })
        };
        let mut batch = message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, &batch_frame());
        for (number, step) in (1u32..).zip(steps) {
            let (kind, flags, payload) = encode(table, step);
            batch.extend(message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, number, &payload));
        }
        batch.extend(message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, &batch_frame()));
        let count = u32::try_from(steps.len()).expect("a batch has a table's steps");
        let answers = self.ask(&batch, count).map_err(|source| failed(last, source))?;
        match answers.refusals.into_iter().next() {
            Some((number, refusal)) => {
                let step = (number as usize).checked_sub(1).and_then(|place| steps.get(place));
                Err(failed(step.unwrap_or(last), refusal))
            }
            None => Ok(()),
        }
    }

    /// The elements of a set; none when the set or its table is not there.
    ///
    /// # Errors
    /// When the kernel refuses, or the set never stays the same.
    pub fn list(&self, table: &str, set: &'static str) -> Result<Option<Vec<Element>>, Box<NftError>> {
        let step = NftStep::List(set);
        let (kind, flags, payload) = encode(table, &step);
        let request = message(kind, NLM_F_REQUEST | flags, 1, &payload);
        for _ in 0..LIST_TRIES_MAX {
            let answers = match self.ask(&request, 1) {
                Ok(answers) => answers,
                Err(source) => return Err(Box::new(NftError { step, source })),
            };
            match answers.refusals.into_iter().next() {
                Some((_, refusal)) if refusal.errno == Errno::ENOENT => return Ok(None),
                Some((_, refusal)) if refusal.errno != Errno::EINTR => {
                    return Err(Box::new(NftError { step, source: refusal }));
                }
                None if !answers.is_inconsistent => {
                    let elements = answers
                        .payloads
                        .iter()
                        .flat_map(|(_, payload)| decode_elements(payload));
                    return Ok(Some(elements.collect()));
                }
                Some(_) | None => {}
            }
        }
        let source = Refusal {
            errno: Errno::EAGAIN,
            words: Some("the set changes too fast to be listed".to_owned()),
        };
        Err(Box::new(NftError { step, source }))
    }

    /// Sends and reads until the message with number `last` is answered for, or as far as there is anything; the kernel has
    /// answered all when the call returns, but for the rest of a listing, which it makes while it is read.
    fn ask(&self, request: &[u8], last: u32) -> Result<Answers, Refusal> {
        self.socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Answers::default();
        let mut buffer = [0; ANSWER_BYTES];
        while !answers.is_done {
            match self.socket.recv(&mut &mut buffer[..], DONT_WAIT) {
                Ok(length) => answers.read(&buffer[..length], last),
                // A refusal of the whole batch is of none of its messages.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(answers)
    }
}

/// One netlink message with its header.
fn message(kind: u16, flags: u16, number: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).expect("a message is small");
    let mut bytes = Vec::with_capacity(16 + payload.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
