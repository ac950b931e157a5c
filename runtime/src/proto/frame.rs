//! Frames: a little-endian u32 length, then that many bytes of JSON. Bytes only, no IO.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest JSON text of a frame in bytes. A longer one is refused by its length, before any of it is kept.
pub const FRAME_LIMIT: usize = 4 << 20;

const HEADER: usize = size_of::<u32>();

/// Why bytes are not a frame, or a message can't become one. After any of these a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is 0 or beyond [`FRAME_LIMIT`].
    #[error("frame of {length} bytes, must be 1 to {FRAME_LIMIT}")]
    Length {
        /// The length that was announced or needed.
        length: usize,
    },
    /// The bytes are not the JSON of the expected message.
    #[error("frame does not hold a {expected}")]
    Json {
        /// The message that was expected.
        expected: &'static str,
        /// Where and why reading stopped.
        #[source]
        source: serde_json::Error,
    },
}

/// The bytes of a message's frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message).map_err(|source| json_error::<T>(source))?;
    let length = bytes.len() - HEADER;
    let announced = u32::try_from(length)
        .ok()
        .filter(|_| length <= FRAME_LIMIT)
        .ok_or(FrameError::Length { length })?;
    bytes[..HEADER].copy_from_slice(&announced.to_le_bytes());
    Ok(bytes)
}

/// The message in a frame's JSON text.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(json).map_err(|source| json_error::<T>(source))
}

fn json_error<T>(source: serde_json::Error) -> FrameError {
    let expected = std::any::type_name::<T>().rsplit("::").next().unwrap_or("message");
    FrameError::Json { expected, source }
}

/// Cuts a stream of bytes into frames. Holds at most one whole frame more than it was asked for.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Bytes taken and not yet handed out.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The JSON text of the next whole frame, `None` until more bytes are pushed.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let Some(header) = self.pending.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*header)).expect("a usize holds 32 bits on Linux");
        if length == 0 || length > FRAME_LIMIT {
            return Err(FrameError::Length { length });
        }
        if self.pending.len() < HEADER + length {
            return Ok(None);
        }
        let rest = self.pending.split_off(HEADER + length);
        let mut frame = std::mem::replace(&mut self.pending, rest);
        frame.drain(..HEADER);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{ClientFrame, ServerFrame};
    use super::*;

    fn frames(decoder: &mut Decoder) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn frames_survive_any_splitting(messages in prop::collection::vec(".{0,40}", 0..8), cut in 1usize..64) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| encode(message).unwrap()).collect();
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(cut) {
                decoder.push(chunk);
                seen.extend(frames(&mut decoder).iter().map(|json| decode::<String>(json).unwrap()));
            }
            prop_assert_eq!(seen, messages);
            prop_assert_eq!(decoder.pending(), 0);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(json)) = decoder.next_frame() {
                let _ = decode::<ClientFrame>(&json);
                let _ = decode::<ServerFrame>(&json);
            }
        }
    }

    #[test]
    fn random_frames_are_read_or_refused() {
        crate::random::inputs("frame", |bytes| {
            let mut decoder = Decoder::default();
            // Well framed, and then as if the bytes were frames themselves.
            let length = u32::try_from(bytes.len()).unwrap();
            for part in [&length.to_le_bytes(), bytes, bytes] {
                decoder.push(part);
                while let Ok(Some(json)) = decoder.next_frame() {
                    let _ = decode::<ClientFrame>(&json);
                    let _ = decode::<ServerFrame>(&json);
                }
            }
        });
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_by_its_header() {
        for length in [0, FRAME_LIMIT + 1, u32::MAX as usize] {
            let mut decoder = Decoder::default();
            decoder.push(&u32::try_from(length).unwrap().to_le_bytes());
            assert!(matches!(decoder.next_frame(), Err(FrameError::Length { .. })));
        }
        assert!(matches!(
            encode(&"x".repeat(FRAME_LIMIT)),
            Err(FrameError::Length { .. })
        ));
    }

    #[test]
    fn an_unknown_field_of_a_request_is_refused() {
        assert!(decode::<ClientFrame>(br#"{"id":1,"request":"list"}"#).is_ok());
        assert!(decode::<ClientFrame>(br#"{"id":1,"request":"list","more":1}"#).is_err());
        let start = br#"{"id":1,"request":{"start":{"container":"a","attempt":0,"more":1}}}"#;
        assert!(decode::<ClientFrame>(start).is_err());
    }

    #[test]
    fn an_unknown_field_of_a_reply_is_passed_over() {
        let reply = br#"{"reply":{"id":1,"outcome":{"Ok":{"created":{"pid":3,"unenforced":[],"new":1}}},"more":2}}"#;
        assert!(decode::<ServerFrame>(reply).is_ok());
        let failure = br#"{"reply":{"id":1,"outcome":{"Err":{"kind":"brand_new","message":"m"}}}}"#;
        assert!(decode::<ServerFrame>(failure).is_ok());
    }
}
