//! A plot as SVG: lines over one axis, nothing more.

use std::fmt::Write as _;

/// A line of the plot.
pub struct Line {
    /// Its name in the legend.
    pub name: &'static str,
    /// Its colour.
    pub colour: &'static str,
    /// Whether it is dashed.
    pub dashed: bool,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;
const WIDE: f64 = 620.0;
const HIGH: f64 = 320.0;

/// Draws lines over axes that begin at zero.
pub fn plot(title: &str, x_name: &str, y_name: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|l| &l.points).filter(|p| p.0.is_finite() && p.1.is_finite());
    let (x_step, x_end) = axis(all().map(|p| p.0).fold(0.0, f64::max));
    let (y_step, y_end) = axis(all().map(|p| p.1).fold(0.0, f64::max));
    let place = |(x, y): (f64, f64)| (LEFT + x / x_end * WIDE, TOP + HIGH - y / y_end * HIGH);
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n",
        LEFT + WIDE + 30.0,
        TOP + HIGH + 60.0,
    );
    for i in 0..=(x_end / x_step).round() as usize {
        let value = i as f64 * x_step;
        let (x, y) = place((value, 0.0));
        let _ = writeln!(s, "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>");
        let _ = writeln!(s, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>", y + 16.0);
    }
    for i in 0..=(y_end / y_step).round() as usize {
        let value = i as f64 * y_step;
        let (x, y) = place((0.0, value));
        let _ =
            writeln!(s, "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>", LEFT + WIDE);
        let _ = writeln!(s, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", x - 6.0, y + 4.0);
    }
    for (i, line) in lines.iter().enumerate() {
        let dash = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let points = line.points.iter().filter(|p| p.0.is_finite() && p.1.is_finite()).map(|p| place(*p));
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            s,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dash}/>",
            points.join(" "),
            line.colour
        );
        let y = TOP + 16.0 + 18.0 * i as f64;
        let _ = writeln!(
            s,
            "<line x1=\"{0}\" y1=\"{y}\" x2=\"{1}\" y2=\"{y}\" stroke=\"{2}\" stroke-width=\"2\"{dash}/>",
            LEFT + 14.0,
            LEFT + 44.0,
            line.colour
        );
        let _ = writeln!(s, "<text x=\"{}\" y=\"{}\">{}</text>", LEFT + 50.0, y + 4.0, line.name);
    }
    let _ = writeln!(
        s,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{x_name}</text>",
        LEFT + WIDE / 2.0,
        TOP + HIGH + 42.0
    );
    let (x, y) = (18.0, TOP + HIGH / 2.0);
    let _ = writeln!(
        s,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" transform=\"rotate(-90 {x} {y})\">{y_name}</text>\n</svg>"
    );
    s
}

/// A round step, and the end of an axis that holds this value.
fn axis(most: f64) -> (f64, f64) {
    let rough = (most / 6.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|f| f * power).find(|s| *s >= rough).unwrap_or(rough);
    (step, (most / step).ceil().max(1.0) * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_and_hold_everything() {
        assert_eq!(axis(32_933.0), (10_000.0, 40_000.0));
        assert_eq!(axis(5.9), (1.0, 6.0));
        assert!(axis(0.0).0 > 0.0 && axis(0.0).1 >= axis(0.0).0);
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let line =
            Line { name: "a", colour: "red", dashed: false, points: vec![(0.0, 0.0), (60.0, 6.0), (f64::NAN, 1.0)] };
        let svg = plot("t", "x", "y", &[line]);
        assert!(svg.contains("points=\"70.0,360.0 690.0,40.0\""), "{svg}");
    }
}
