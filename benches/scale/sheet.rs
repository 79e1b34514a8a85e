//! Figures by row and column, over the rounds; told as medians. Called by all that is measured.

use std::fmt::Write as _;

#[derive(Default)]
pub struct Sheet {
    columns: Vec<String>,
    rows: Vec<(String, Vec<Vec<f64>>)>,
    notes: Vec<(String, Vec<f64>)>,
}

impl Sheet {
    pub fn new(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    pub fn add(&mut self, label: &str, column: usize, value: f64) {
        let at = self.rows.iter().position(|row| row.0 == label).unwrap_or_else(|| {
            self.rows.push((label.to_owned(), vec![vec![]; self.columns.len()]));
            self.rows.len() - 1
        });
        self.rows[at].1[column].push(value);
    }

    /// A figure of no column.
    pub fn note(&mut self, label: &str, value: f64) {
        match self.notes.iter_mut().find(|note| note.0 == label) {
            Some(note) => note.1.push(value),
            None => self.notes.push((label.to_owned(), vec![value])),
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        line(&mut text, "", self.columns.iter().cloned());
        line(&mut text, "---", self.columns.iter().map(|_| "---".to_owned()));
        for (label, figures) in &self.rows {
            line(&mut text, label, figures.iter().map(|f| median(f).map_or("–".to_owned(), shortened)));
        }
        for (label, figures) in &self.notes {
            let figure = median(figures).map_or("–".to_owned(), shortened);
            write!(text, "\n{label}: {figure}.\n").expect("a string takes it");
        }
        text
    }
}

fn line(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<String> = cells.collect();
    writeln!(text, "| {first} | {} |", cells.join(" | ")).expect("a string takes it");
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

/// Three digits that count, and no more.
pub fn shortened(value: f64) -> String {
    match value {
        nothing if nothing.abs() < 0.005 => "0".to_owned(),
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}
