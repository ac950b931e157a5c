//! As much of D-Bus as it takes to call a method of systemd's manager and to hear of the end of a job.
//!
//! <https://dbus.freedesktop.org/doc/dbus-specification.html>. On systemd's private socket there is no bus: no `Hello`,
//! and the manager's signals come unasked.

mod address;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub(super) use address::sockets;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// Longest message that is read; systemd's answers have some hundred bytes.
const LENGTH_LIMIT: usize = 1 << 20;

/// How long systemd may keep us waiting for one message.
const PATIENCE: Duration = Duration::from_secs(30);

/// Types of messages.
const CALL: u8 = 1;
const REPLY: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What has methods: where it is and which of its interfaces they are of.
#[derive(Debug, Clone, Copy)]
struct Object {
    destination: &'static str,
    path: &'static str,
    interface: &'static str,
}

const MANAGER: Object = Object {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const MANAGERS_PROPERTIES: Object = Object {
    interface: "org.freedesktop.DBus.Properties",
    ..MANAGER
};
const BUS: Object = Object {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// The signals that a bus is to pass on to us.
const SIGNALS: &str = "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager'";

/// A value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Variant {
    Text(String),
    Flag(bool),
    Number(u64),
    Numbers(Vec<u32>),
    Signed(i32),
    Texts(Vec<String>),
    Unsigned(u32),
}

/// The body of a message while it grows; all numbers are little-endian.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
}

impl Body {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(super) fn number(&mut self, number: u32) {
        self.align(4);
        self.bytes.extend(number.to_le_bytes());
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.number(flag.into());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
    }

    /// An array, whose length goes before what `fill` puts in.
    fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.bytes.len() - 4;
        self.align(alignment);
        let start = self.bytes.len();
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn variant(&mut self, value: &Variant) {
        match value {
            Variant::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Variant::Flag(flag) => {
                self.signature("b");
                self.flag(*flag);
            }
            Variant::Number(number) => {
                self.signature("t");
                self.align(8);
                self.bytes.extend(number.to_le_bytes());
            }
            Variant::Numbers(numbers) => {
                self.signature("au");
                self.numbers(numbers);
            }
            Variant::Signed(number) => {
                self.signature("i");
                self.number(number.cast_unsigned());
            }
            Variant::Texts(texts) => {
                self.signature("as");
                self.array(4, |body| texts.iter().for_each(|text| body.text(text)));
            }
            Variant::Unsigned(number) => {
                self.signature("u");
                self.number(*number);
            }
        }
    }

    /// `a(sv)`
    pub(super) fn properties(&mut self, properties: &[(&str, Variant)]) {
        self.array(8, |body| {
            for (name, value) in properties {
                body.align(8);
                body.text(name);
                body.variant(value);
            }
        });
    }

    /// `au`
    pub(super) fn numbers(&mut self, numbers: &[u32]) {
        self.array(4, |body| numbers.iter().for_each(|number| body.number(*number)));
    }

    /// An array of structures with nothing in it.
    pub(super) fn nothing(&mut self) {
        self.array(8, |_| {});
    }
}

/// A message that came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    kind: u8,
    member: String,
    error: String,
    reply_to: u32,
    body: Vec<u8>,
}

impl Message {
    /// The numbers and texts of its body in their order, by its signature's letters `u`, `s` and `o`.
    pub(super) fn texts(&self, signature: &str) -> Option<Vec<String>> {
        let mut reader = Reader {
            bytes: &self.body,
            at: 0,
        };
        let read = |letter| match letter {
            'u' => Some(reader.number()?.to_string()),
            _ => reader.text(),
        };
        signature.chars().map(read).collect()
    }

    /// The text of a variant, if that is what its body is.
    fn text_of_variant(&self) -> Option<String> {
        let mut reader = Reader {
            bytes: &self.body,
            at: 0,
        };
        (reader.signature()? == "s").then(|| reader.text()).flatten()
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let part = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(part)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.byte().map(|_| text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?;
        let text = String::from_utf8(self.take(length.into())?.to_vec()).ok()?;
        self.byte().map(|_| text)
    }

    /// One field of a header: its code and, for those that matter here, its value.
    fn field(&mut self, message: &mut Message) -> Option<()> {
        self.align(8);
        let code = self.byte()?;
        let signature = self.signature()?;
        match (code, signature.as_str()) {
            (MEMBER, "s") => message.member = self.text()?,
            (ERROR_NAME, "s") => message.error = self.text()?,
            (REPLY_SERIAL, "u") => message.reply_to = self.number()?,
            (_, "s" | "o") => drop(self.text()?),
            (_, "u") => drop(self.number()?),
            (_, "g") => drop(self.signature()?),
            _ => return None,
        }
        Some(())
    }
}

/// A connection to a manager.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// Signals that came while a reply was waited for.
    signals: Vec<Message>,
}

/// How many signals are kept while a reply is waited for; older ones are not ours.
const SIGNAL_LIMIT: usize = 1000;

/// Who we say that we are, in the way of `EXTERNAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// This process's user.
    Uid,
    /// Whoever the kernel says. In a user namespace we don't know by which number the other side knows us. A systemd older
    /// than 246 does not understand it.
    Kernels,
}

impl Connection {
    /// To a manager that is alone at the other end.
    pub(super) fn to_manager(stream: UnixStream, claim: Claim) -> io::Result<Self> {
        Self::begin(stream, claim)
    }

    /// To the manager that is on a bus.
    pub(super) fn to_bus(stream: UnixStream) -> io::Result<Self> {
        let mut connection = Self::begin(stream, Claim::Kernels)?;
        connection.call_on(BUS, "Hello", "", &Body::default())?;
        let mut signals = Body::default();
        signals.text(SIGNALS);
        connection.call_on(BUS, "AddMatch", "s", &signals)?;
        // It says nothing to a bus unless somebody wants to hear it.
        connection.call("Subscribe", "", &Body::default())?;
        Ok(connection)
    }

    /// Says who we are; the kernel vouches for it.
    ///
    /// `BEGIN` goes along unasked, as systemd's own clients do it. A short call right behind a later `BEGIN` would be read
    /// with it, and systemd would let it lie until something else comes.
    fn begin(stream: UnixStream, claim: Claim) -> io::Result<Self> {
        let peer = getsockopt(&stream, PeerCredentials)?;
        if peer.pid() == 0 {
            let why = "it is outside of this process's pid namespace, and knows processes by other numbers";
            return Err(io::Error::other(why));
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Self {
            stream: BufReader::new(stream),
            serial: 0,
            signals: Vec::new(),
        };
        let uid = nix::unistd::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        let claimed = match claim {
            Claim::Uid => format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n"),
            Claim::Kernels => "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".to_owned(),
        };
        connection.send(claimed.as_bytes())?;
        let mut answer = connection.line()?;
        if claim == Claim::Kernels && answer == "DATA" {
            answer = connection.line()?;
        }
        if answer.starts_with("OK ") {
            Ok(connection)
        } else {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, answer))
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.stream).take(1024).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Calls a method of systemd's manager and waits for the reply.
    pub(super) fn call(&mut self, method: &str, signature: &str, body: &Body) -> io::Result<Message> {
        self.call_on(MANAGER, method, signature, body)
    }

    /// The text that a property of the manager is.
    pub(super) fn property(&mut self, name: &str) -> io::Result<String> {
        let mut body = Body::default();
        body.text(MANAGER.interface);
        body.text(name);
        let reply = self.call_on(MANAGERS_PROPERTIES, "Get", "ss", &body)?;
        reply.text_of_variant().ok_or_else(malformed)
    }

    fn call_on(&mut self, object: Object, method: &str, signature: &str, body: &Body) -> io::Result<Message> {
        self.serial += 1;
        self.send(&call(self.serial, object, method, signature, body))?;
        loop {
            let message = self.receive()?;
            match message.kind {
                REPLY if message.reply_to == self.serial => return Ok(message),
                ERROR if message.reply_to == self.serial => {
                    let text = message.texts("s").unwrap_or_default().concat();
                    return Err(io::Error::other(format!("{}: {text}", message.error)));
                }
                SIGNAL if self.signals.len() < SIGNAL_LIMIT => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// The next signal of this name.
    pub(super) fn signal(&mut self, member: &str, deadline: Instant) -> io::Result<Message> {
        if let Some(at) = self.signals.iter().position(|signal| signal.member == member) {
            return Ok(self.signals.remove(at));
        }
        while Instant::now() < deadline {
            let message = self.receive()?;
            if message.kind == SIGNAL && message.member == member {
                return Ok(message);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn receive(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let (fields, rest) = lengths(&head).ok_or_else(malformed)?;
        let mut bytes = head.to_vec();
        bytes.resize(16 + rest, 0);
        self.stream.read_exact(&mut bytes[16..])?;
        parse(&bytes, fields).ok_or_else(malformed)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a D-Bus message of ours")
}

/// The lengths of a header's fields and of all that follows its first 16 bytes.
fn lengths(head: &[u8; 16]) -> Option<(usize, usize)> {
    let number = |at: usize| {
        let bytes = head.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let (body, fields) = (number(4)?, number(12)?);
    let is_ours = head[0] == b'l' && fields <= LENGTH_LIMIT && body <= LENGTH_LIMIT;
    is_ours.then(|| (fields, fields.next_multiple_of(8) + body))
}

fn parse(bytes: &[u8], fields: usize) -> Option<Message> {
    let mut message = Message {
        kind: *bytes.get(1)?,
        ..Message::default()
    };
    let mut reader = Reader { bytes, at: 16 };
    while reader.at < 16 + fields {
        reader.field(&mut message)?;
    }
    message.body = bytes.get(16 + fields.next_multiple_of(8)..)?.to_vec();
    Some(message)
}

fn call(serial: u32, object: Object, method: &str, signature: &str, body: &Body) -> Vec<u8> {
    let mut message = Body::default();
    message.bytes.extend([b'l', CALL, 0, 1]);
    message.number(u32::try_from(body.bytes.len()).unwrap_or(u32::MAX));
    message.number(serial);
    message.array(8, |message| {
        for (code, kind, value) in [
            (PATH, "o", object.path),
            (INTERFACE, "s", object.interface),
            (MEMBER, "s", method),
            (DESTINATION, "s", object.destination),
        ] {
            message.align(8);
            message.bytes.push(code);
            message.signature(kind);
            message.text(value);
        }
        message.align(8);
        message.bytes.push(SIGNATURE);
        message.signature("g");
        message.signature(signature);
    });
    message.align(8);
    message.bytes.extend(&body.bytes);
    message.bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let mut body = Body::default();
        body.text("a.scope");
        body.properties(&[("Delegate", Variant::Flag(true)), ("PIDs", Variant::Numbers(vec![7]))]);
        let bytes = call(1, MANAGER, "M", "sa(sv)", &body);
        assert_eq!(
            bytes[..12],
            [
                b'l',
                1,
                0,
                1,
                u8::try_from(body.bytes.len()).unwrap(),
                0,
                0,
                0,
                1,
                0,
                0,
                0
            ]
        );
        assert_eq!(bytes.len() % 8, body.bytes.len() % 8);
        let expected = b"\x07\0\0\0a.scope\0\x30\0\0\0\x08\0\0\0Delegate\0\x01b\0\x01\0\0\0\0\0\0\0\x04\0\0\0PIDs\0\x02au\0\0\0\0\x04\0\0\0\x07\0\0\0";
        assert_eq!(body.bytes, expected);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut body = Body::default();
        body.number(5);
        body.text("/job/5");
        body.text("a.scope");
        let bytes = call(9, MANAGER, "JobRemoved", "uos", &body);
        let (fields, rest) = lengths(bytes[..16].try_into().unwrap()).unwrap();
        assert_eq!(rest + 16, bytes.len());
        let message = parse(&bytes, fields).unwrap();
        assert_eq!(message.member, "JobRemoved");
        assert_eq!(message.texts("uos").unwrap(), ["5", "/job/5", "a.scope"]);
        assert_eq!(message.texts("uosss"), None);
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in prop::collection::vec(any::<u8>(), 16..200)) {
            let mut bytes = bytes;
            bytes[0] = b'l';
            if let Some((fields, _)) = lengths(bytes[..16].try_into().unwrap())
                && let Some(message) = parse(&bytes, fields)
            {
                let _ = (message.texts("usso"), message.text_of_variant());
            }
        }
    }
}
