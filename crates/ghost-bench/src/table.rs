//! Tables on the terminal and in Markdown.

/// Rows of text under a heading; all columns but the first are numbers and stand to the right.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }
    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
    /// Only headings so far.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }
    /// As Markdown, aligned so that it reads well as text, too.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            for (c, width) in widths.iter().enumerate() {
                let cell = row.get(c).map_or("", |s| s.as_str());
                out += &if c == 0 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
            }
            out += "|\n";
            if i == 0 {
                for (c, width) in widths.iter().enumerate() {
                    out += &if c == 0 {
                        format!("|{}", "-".repeat(width + 2))
                    } else {
                        format!("|{}:", "-".repeat(width + 1))
                    };
                }
                out += "|\n";
            }
        }
        out
    }
}

/// A time with as many digits as mean something.
pub fn time(ms: f64) -> String {
    if ms.is_nan() {
        "—".into()
    } else if ms < 10.0 {
        format!("{ms:.2}")
    } else if ms < 100.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.0}")
    }
}

/// How many times a limit something took.
pub fn ratio(ms: f64, limit: f64) -> String {
    if limit > 0.0 && !ms.is_nan() { format!("{:.2}×", ms / limit) } else { "—".into() }
}
