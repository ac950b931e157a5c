//! The CRI log format: `<RFC 3339 time> <stream> <tag> <content>`, one entry per line. Pure; [`super::logs`] writes.
//!
//! Lines are cut as containerd cuts them (`internal/cri/io/logger.go`): one `\r` before the newline is dropped, a line
//! beyond [`LINE_LIMIT`] becomes partial entries and a full one, and what ends without a newline stays partial, so that
//! a reader prints exactly what the program wrote. Times always have nine digits, so that entries sort as text.

use memchr::memchr;

use crate::proto::UnixNanos;

/// The longest content of one entry in bytes.
pub const LINE_LIMIT: usize = 16 << 10;

/// Where an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Whether an entry ends its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The next entry of the stream goes on with this line.
    Partial,
    /// The line ends here.
    Full,
}

/// Appends one entry.
pub fn write_entry(out: &mut Vec<u8>, time: &Stamp, stream: Stream, tag: Tag, content: &[u8]) {
    out.extend_from_slice(&time.0);
    out.push(b' ');
    out.extend_from_slice(stream.as_str().as_bytes());
    out.extend_from_slice(match tag {
        Tag::Partial => b" P ",
        Tag::Full => b" F ",
    });
    out.extend_from_slice(content);
    out.push(b'\n');
}

/// Cuts the output of one stream into entries. Keeps an unfinished line of at most [`LINE_LIMIT`] and one byte.
#[derive(Debug, Default)]
pub struct Splitter {
    tail: Vec<u8>,
}

impl Splitter {
    /// Takes output as it came and emits what is complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Tag, &[u8])) {
        while let Some(end) = memchr(b'\n', bytes) {
            self.end_line(&bytes[..end], &mut emit);
            bytes = &bytes[end + 1..];
        }
        while !bytes.is_empty() {
            let room = LINE_LIMIT + 1 - self.tail.len().min(LINE_LIMIT);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.tail.extend_from_slice(now);
            self.cut(&mut emit);
            bytes = later;
        }
    }

    /// Emits the unfinished line, if there is one; the stream has ended.
    pub fn finish(&mut self, mut emit: impl FnMut(Tag, &[u8])) {
        for chunk in std::mem::take(&mut self.tail).chunks(LINE_LIMIT) {
            emit(Tag::Partial, chunk);
        }
    }

    fn end_line(&mut self, end: &[u8], emit: &mut impl FnMut(Tag, &[u8])) {
        if self.tail.is_empty() {
            return emit_line(end, emit);
        }
        let mut line = std::mem::take(&mut self.tail);
        line.extend_from_slice(end);
        emit_line(&line, emit);
        line.clear();
        line.shrink_to(LINE_LIMIT);
        self.tail = line;
    }

    /// Emits the first [`LINE_LIMIT`] bytes of a line that is longer for certain: a `\r` may yet turn out to be a part
    /// of its end.
    fn cut(&mut self, emit: &mut impl FnMut(Tag, &[u8])) {
        let held_back = usize::from(self.tail.last() == Some(&b'\r'));
        if self.tail.len() - held_back > LINE_LIMIT || self.tail.len() > LINE_LIMIT + 1 {
            emit(Tag::Partial, &self.tail[..LINE_LIMIT]);
            self.tail.drain(..LINE_LIMIT);
        }
    }
}

fn emit_line(line: &[u8], emit: &mut impl FnMut(Tag, &[u8])) {
    let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
    while rest.len() > LINE_LIMIT {
        let (chunk, more) = rest.split_at(LINE_LIMIT);
        emit(Tag::Partial, chunk);
        rest = more;
    }
    emit(Tag::Full, rest);
}

/// A moment as text: `2026-11-20T21:05:00.123456789Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp([u8; 30]);

impl Stamp {
    /// The text; always ASCII.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only ASCII digits and separators are ever put in")
    }
}

impl From<UnixNanos> for Stamp {
    fn from(time: UnixNanos) -> Self {
        let seconds = time.0.div_euclid(1_000_000_000);
        let nanoseconds = time.0.rem_euclid(1_000_000_000);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let second_of_day = seconds.rem_euclid(86_400);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        put(&mut text[0..4], year);
        put(&mut text[5..7], month);
        put(&mut text[8..10], day);
        put(&mut text[11..13], second_of_day / 3600);
        put(&mut text[14..16], second_of_day / 60 % 60);
        put(&mut text[17..19], second_of_day % 60);
        put(&mut text[20..29], nanoseconds);
        Self(text)
    }
}

/// Writes the last digits of a number that is not negative.
fn put(digits: &mut [u8], mut number: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a remainder of 10 of a number that is not negative");
        number /= 10;
    }
}

/// Year, month, day in the proleptic Gregorian calendar, from days since 1970-01-01. Years begin in March here, so that
/// the leap day is the last of its year (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Entries = Vec<(Tag, Vec<u8>)>;

    fn split(chunks: &[&[u8]]) -> Entries {
        let (mut splitter, mut entries) = (Splitter::default(), Vec::new());
        for chunk in chunks {
            splitter.feed(chunk, |tag, content| entries.push((tag, content.to_vec())));
            assert!(splitter.tail.len() <= LINE_LIMIT + 1);
        }
        splitter.finish(|tag, content| entries.push((tag, content.to_vec())));
        entries
    }

    /// What containerd would write, from the whole output at once.
    fn model(output: &[u8]) -> Entries {
        let mut entries = Vec::new();
        for line in output.split_inclusive(|byte| *byte == b'\n') {
            let (content, last) = match line.strip_suffix(b"\n") {
                Some(content) => (content.strip_suffix(b"\r").unwrap_or(content), Tag::Full),
                None => (line, Tag::Partial),
            };
            let mut chunks: Vec<&[u8]> = content.chunks(LINE_LIMIT).collect();
            let end = chunks.pop().unwrap_or_default();
            entries.extend(chunks.iter().map(|chunk| (Tag::Partial, chunk.to_vec())));
            entries.push((last, end.to_vec()));
        }
        entries
    }

    #[test]
    fn short_lines() {
        let full = |text: &str| (Tag::Full, text.as_bytes().to_vec());
        let partial = |text: &str| (Tag::Partial, text.as_bytes().to_vec());
        for (output, expected) in [
            ("", vec![]),
            ("\n", vec![full("")]),
            ("a\nb\r\n", vec![full("a"), full("b")]),
            ("a\r\r\nb\rc\n", vec![full("a\r"), full("b\rc")]),
            ("a\nb", vec![full("a"), partial("b")]),
            ("b\r", vec![partial("b\r")]),
        ] {
            assert_eq!(split(&[output.as_bytes()]), expected, "{output:?}");
            assert_eq!(model(output.as_bytes()), expected, "{output:?}");
        }
    }

    #[test]
    fn lines_around_the_limit_are_cut_as_the_model_cuts_them() {
        for length in [
            LINE_LIMIT - 1,
            LINE_LIMIT,
            LINE_LIMIT + 1,
            2 * LINE_LIMIT,
            2 * LINE_LIMIT + 1,
        ] {
            for end in ["\n", "\r\n", "\r\r\n", "\r", "", "\rx\n"] {
                let output = [&vec![b'a'; length], end.as_bytes()].concat();
                for step in [1, 7, LINE_LIMIT, output.len()] {
                    let chunks: Vec<&[u8]> = output.chunks(step).collect();
                    assert_eq!(split(&chunks), model(&output), "{length} {end:?} {step}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_output_in_any_pieces_is_cut_as_the_model_cuts_it(
            lines in prop::collection::vec((0usize..40_000, "\n|\r\n|\r|x|\r\r\n"), 0..5),
            step in 1usize..40_000,
        ) {
            let output: Vec<u8> =
                lines.iter().flat_map(|(length, end)| [&vec![b'z'; *length], end.as_bytes()].concat()).collect();
            let chunks: Vec<&[u8]> = output.chunks(step).collect();
            prop_assert_eq!(split(&chunks), model(&output));
        }

        #[test]
        fn days_follow_one_another(day in -1_000_000i64..1_000_000) {
            let (before, after) = (civil_from_days(day), civil_from_days(day + 1));
            prop_assert!(before < after);
            prop_assert!(after.2 == before.2 + 1 || after.2 == 1);
        }
    }

    #[test]
    fn known_moments() {
        for (nanoseconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_795_208_700_120_000_000, "2026-11-20T21:05:00.120000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ] {
            assert_eq!(Stamp::from(UnixNanos(nanoseconds)).as_str(), text);
        }
    }

    #[test]
    fn an_entry_reads_as_the_cri_says() {
        let mut out = Vec::new();
        write_entry(
            &mut out,
            &Stamp::from(UnixNanos(0)),
            Stream::Stderr,
            Tag::Full,
            b"hello",
        );
        assert_eq!(out, b"1970-01-01T00:00:00.000000000Z stderr F hello\n");
    }
}
