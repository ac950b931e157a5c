//! A picture of figures: lines on logarithmic axes, as SVG.

use std::fmt::Write as _;

/// A picture.
pub(super) struct Plot<'a> {
    pub(super) title: String,
    /// What the horizontal axis counts.
    pub(super) across: String,
    pub(super) series: &'a [Series],
}

/// One line; both coordinates are above zero.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Room for what is written at the left and at the right, above and below.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 104.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;
/// Height of a line of text.
const LINE: f64 = 13.0;
const COLOURS: [&str; 5] = ["#0b6", "#999", "#06c", "#d50", "#90c"];

impl Plot<'_> {
    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let across = Axis::of(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
        let up = Axis::of(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
            self.title
        );
        for power in across.powers() {
            let x = across.place(power);
            let _ = writeln!(
                text,
                "<path d=\"M{x:.1} {TOP}V{}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{power}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0
            );
        }
        for power in up.powers() {
            let y = up.place(power);
            let _ = writeln!(
                text,
                "<path d=\"M{LEFT} {y:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{power}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0
            );
        }
        let (middle, below) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0);
        let _ = writeln!(
            text,
            "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{}</text>",
            self.across
        );
        let mut names = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            line(&mut text, series, colour, &across, &up, &mut names);
        }
        text + "</svg>\n"
    }
}

/// `names` are the heights at which lines have their names already.
fn line(text: &mut String, series: &Series, colour: &str, across: &Axis, up: &Axis, names: &mut Vec<f64>) {
    let places: Vec<(f64, f64)> = series
        .points
        .iter()
        .map(|(x, y)| (across.place(*x), up.place(*y)))
        .collect();
    let way: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        way.join(" ")
    );
    for (x, y) in &places {
        let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    if let Some((x, end)) = places.last() {
        let mut y = end + 4.0;
        while names.iter().any(|name| (name - y).abs() < LINE) {
            y -= LINE;
        }
        names.push(y);
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{}</text>",
            x + 8.0,
            series.name
        );
    }
}

/// A logarithmic axis from one power of ten to another.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let most = values.fold(0.0, f64::max).log10().ceil();
        #[expect(clippy::cast_possible_truncation, reason = "logarithms of figures are small")]
        let (low, high) = (least as i32, most as i32);
        Self {
            low,
            high: high.max(low + 1),
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    fn powers(&self) -> impl Iterator<Item = f64> + use<> {
        (self.low..=self.high).map(|power| 10_f64.powi(power))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let series = [Series {
            name: "ours".to_owned(),
            points: vec![(10.0, 1.0), (1000.0, 100.0)],
        }];
        let plot = Plot {
            title: "connect, us".to_owned(),
            across: "Services".to_owned(),
            series: &series,
        };
        let svg = plot.svg();
        assert!(svg.contains("points=\"64.0,352.0 536.0,40.0\""), "{svg}");
        assert!(svg.contains(">ours</text>") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
