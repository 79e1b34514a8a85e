//! One row of the table as a picture: a bar for each contestant, ours in another colour. Called by `main`.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
/// Where bars begin: room for the longest name.
const LEFT: f64 = 130.0;
/// Room for the figure behind the longest bar.
const RIGHT: f64 = 80.0;
const TOP: f64 = 44.0;
const STEP: f64 = 26.0;
const BAR: f64 = 18.0;

pub struct Bar<'a> {
    pub name: &'a str,
    pub value: f64,
    /// As it stands in the table.
    pub text: String,
    pub colour: Colour,
}

#[derive(Clone, Copy)]
pub enum Colour {
    Ours,
    Peer,
    /// No forwarder at all.
    Direct,
}

/// An SVG that reads on a light and on a dark page.
pub fn bars(title: &str, bars: &[Bar<'_>]) -> String {
    let height = TOP + STEP * bars.len() as f64 + 10.0;
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = String::new();
    let mut line = |text: String| writeln!(svg, "{text}").expect("a string takes it");
    line(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" role="img" aria-label="{title}">"#
    ));
    line(format!(r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##));
    line(format!(r##"<text x="10" y="24" font-size="15" fill="#222222">{title}</text>"##));
    for (number, bar) in bars.iter().enumerate() {
        let top = TOP + STEP * number as f64;
        let length = ((WIDTH - LEFT - RIGHT) * bar.value / most).max(1.0);
        let (middle, end) = (top + BAR * 0.75, LEFT + length + 6.0);
        let fill = match bar.colour {
            Colour::Ours => "#c2410c",
            Colour::Peer => "#64748b",
            Colour::Direct => "#cbd5e1",
        };
        let (name, text) = (bar.name, &bar.text);
        line(format!(
            r##"<text x="{:.0}" y="{middle:.1}" text-anchor="end" fill="#222222">{name}</text>"##,
            LEFT - 8.0
        ));
        line(format!(r#"<rect x="{LEFT}" y="{top:.1}" width="{length:.1}" height="{BAR}" fill="{fill}"/>"#));
        line(format!(r##"<text x="{end:.1}" y="{middle:.1}" fill="#222222">{text}</text>"##));
    }
    line("</svg>".to_owned());
    svg
}
