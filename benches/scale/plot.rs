//! Requests a second over time as a picture, one line a case. Called by `main`.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [&str; 4] = ["#c2410c", "#1d4ed8", "#64748b", "#15803d"];

/// `lines` have a value for each `step` seconds; the first is at `from`. An SVG that reads on a light and on a dark page.
pub fn lines(title: &str, from: f64, step: f64, lines: &[(&str, &[f64])]) -> String {
    let most = lines.iter().flat_map(|(_, values)| *values).copied().fold(1.0, f64::max);
    let length = lines.iter().map(|(_, values)| values.len()).max().unwrap_or(1) as f64;
    let x = |at: f64| LEFT + (WIDTH - LEFT - RIGHT) * at / length;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most;
    let mut svg = String::new();
    let mut put = |text: String| writeln!(svg, "{text}").expect("a string takes it");
    put(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" role="img" aria-label="{title}">"#
    ));
    put(format!(r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>"##));
    put(format!(r##"<text x="10" y="22" font-size="15" fill="#222222">{title}</text>"##));
    for share in [0.0, 0.5, 1.0] {
        let (value, at) = (most * share, y(most * share));
        put(format!(
            r##"<line x1="{LEFT}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="#e2e8f0"/>"##,
            WIDTH - RIGHT
        ));
        put(format!(
            r##"<text x="{:.1}" y="{:.1}" text-anchor="end" fill="#222222">{value:.0}</text>"##,
            LEFT - 6.0,
            at + 4.0
        ));
    }
    let mut second = from.ceil();
    while (second - from) / step <= length {
        let at = x((second - from) / step);
        put(format!(
            r##"<text x="{at:.1}" y="{:.1}" text-anchor="middle" fill="#222222">{second:.0} s</text>"##,
            HEIGHT - BOTTOM + 18.0
        ));
        second += 1.0;
    }
    for (number, (name, values)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(at, value)| format!("{:.1},{:.1}", x(at as f64 + 0.5), y(*value)))
            .collect();
        put(format!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.6"/>"#,
            points.join(" ")
        ));
        let left = LEFT + 160.0 * number as f64;
        put(format!(r#"<rect x="{left:.1}" y="36" width="12" height="12" fill="{colour}"/>"#));
        put(format!(r##"<text x="{:.1}" y="46" fill="#222222">{name}</text>"##, left + 18.0));
    }
    put("</svg>".to_owned());
    svg
}
