//! Columns as kubectl prints them: left-aligned, three spaces between, the last one not padded. Also ages and sizes.

use k8s_openapi::jiff::Timestamp;

/// The rows below their headings, each line with its line feed.
pub(super) fn render(headings: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = headings.iter().map(|&heading| heading.to_string()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    [&head].into_iter().chain(rows).map(|row| line(row, &widths)).collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let padded: Vec<String> = row
        .iter()
        .zip(widths)
        .map(|(cell, &width)| format!("{cell:width$}"))
        .collect();
    format!("{}\n", padded.join("   ").trim_end())
}

/// Time since, as kubectl's AGE: `45s`, `3m12s`, `25m`, `4h5m`, `3d`; `<unknown>` without a time.
pub(super) fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    match since {
        Some(since) => duration(now.duration_since(since).as_secs().max(0).unsigned_abs()),
        None => "<unknown>".into(),
    }
}

/// A span of seconds in kubectl's short form (`HumanDuration` of apimachinery).
fn duration(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let pair = |big: u64, unit: char, small: u64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(hours / 24, 'd', hours % 24, 'h'),
        _ => format!("{}d", hours / 24),
    }
}

/// Bytes as crictl prints an image's size: `4.27MB`, in powers of ten.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut divisor = 1_u64;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    let hundredths = u128::from(bytes) * 100 / u128::from(divisor);
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match (unit, whole) {
        (0, _) | (_, 100..) => format!("{whole}{}", UNITS[unit]),
        (_, 10..) => format!("{whole}.{}{}", part / 10, UNITS[unit]),
        _ => format!("{whole}.{part:02}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".into(), "Running".into()],
            vec!["long-name".into(), String::new()],
        ];
        assert_eq!(
            render(&["NAME", "STATUS"], &rows),
            "NAME        STATUS\na           Running\nlong-name\n"
        );
    }

    #[test]
    fn ages_are_as_short_as_kubectls() {
        let cases = [
            (5, "5s"),
            (119, "119s"),
            (192, "3m12s"),
            (300, "5m"),
            (1500, "25m"),
            (14_700, "4h5m"),
            (90_000, "25h"),
            (176_400, "2d1h"),
            (864_000, "10d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (4_270_000, "4.27MB"),
            (77_800_000, "77.8MB"),
            (123_400_000_000, "123GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
