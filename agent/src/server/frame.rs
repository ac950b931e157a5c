//! Frames of an exec stream: one byte of channel, four of length (little endian), then the payload. Bytes only, no IO
//! beyond reading and writing whole frames.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest payload; a longer one ends the stream with an error.
pub const LIMIT: usize = 64 * 1024;

/// What a frame carries. The numbers are those of Kubernetes' `v4.channel.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// To the process; an empty payload closes it.
    Stdin = 0,
    /// From the process.
    Stdout = 1,
    /// From the process, never with a terminal.
    Stderr = 2,
    /// The end: an [`Outcome`] as JSON.
    Outcome = 3,
    /// The terminal's new [`Size`] as JSON.
    Resize = 4,
}

impl Channel {
    fn from_byte(byte: u8) -> io::Result<Channel> {
        match byte {
            0 => Ok(Channel::Stdin),
            1 => Ok(Channel::Stdout),
            2 => Ok(Channel::Stderr),
            3 => Ok(Channel::Outcome),
            4 => Ok(Channel::Resize),
            other => Err(invalid(format!("unknown exec channel {other}"))),
        }
    }
}

/// How an exec ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The process ran and ended; 128 + n for signal n.
    Exited(i32),
    /// It never ran, or was lost.
    Failed(String),
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Writes one frame and flushes it.
pub async fn write(out: &mut (impl AsyncWrite + Unpin), channel: Channel, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= LIMIT);
    let length = length.ok_or_else(|| invalid(format!("exec frame of {} bytes", payload.len())))?;
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(channel as u8);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(payload);
    out.write_all(&frame).await?;
    out.flush().await
}

/// Reads one frame; none at the end of the stream.
pub async fn read(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Channel, Vec<u8>)>> {
    let mut head = [0; 5];
    match input.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let [channel, length @ ..] = head;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > LIMIT {
        return Err(invalid(format!("exec frame of {length} bytes")));
    }
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).await?;
    Ok(Some((Channel::from_byte(channel)?, payload)))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went() {
        let mut bytes = Vec::new();
        write(&mut bytes, Channel::Stdout, b"hello").await.unwrap();
        write(&mut bytes, Channel::Stdin, b"").await.unwrap();
        let mut input = bytes.as_slice();
        assert_eq!(
            read(&mut input).await.unwrap(),
            Some((Channel::Stdout, b"hello".to_vec()))
        );
        assert_eq!(read(&mut input).await.unwrap(), Some((Channel::Stdin, Vec::new())));
        assert_eq!(read(&mut input).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_frame_too_long_or_of_no_channel_is_refused() {
        assert!(read(&mut [1, 0xff, 0xff, 0xff, 0xff].as_slice()).await.is_err());
        assert!(read(&mut [9, 0, 0, 0, 0].as_slice()).await.is_err());
        assert!(
            write(&mut Vec::new(), Channel::Stdout, &vec![0; LIMIT + 1])
                .await
                .is_err()
        );
    }
}
