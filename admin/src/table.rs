//! Tables as the manual prints them: aligned columns, a header and a rule.

/// A table; cells that are unknown print as `-`.
#[derive(Debug)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it must have as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.header.len());
        self.rows.push(cells.into_iter().map(|c| if c.is_empty() { "-".to_owned() } else { clean(&c) }).collect());
    }

    /// The text; without header and rule when `quiet`.
    pub fn render(&self, quiet: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|r| r[column].chars().count());
            cells.chain((!quiet).then(|| self.header[column].chars().count())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut out = String::new();
        if !quiet {
            push(&mut out, &widths, self.header.iter().copied(), "|");
            push(&mut out, &widths, widths.iter().map(|w| RULE.get(..*w).unwrap_or(RULE)), "+");
        }
        for row in &self.rows {
            push(&mut out, &widths, row.iter().map(String::as_str), "|");
        }
        out
    }
}

/// As wide as any cell may sensibly be.
const RULE: &str = "--------------------------------------------------------------------------------------------------------------------------------";

fn push<'a>(out: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>, bar: &str) {
    let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    out.push_str(padded.join(bar).trim_end());
    out.push('\n');
}

/// Names and reasons come from people and guests: no control character of theirs reaches the terminal.
pub fn clean(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_quiet_leaves_the_head_out() {
        let mut table = Table::new(&["Id", "Name"]);
        table.row(vec!["1".into(), "alpha".into()]);
        table.row(vec!["22".into(), String::new()]);
        table.row(vec!["3".into(), "a\x1b[2Jb".into()]);
        assert_eq!(table.render(false), "Id|Name\n--+------\n1 |alpha\n22|-\n3 |a [2Jb\n");
        assert_eq!(table.render(true), "1 |alpha\n22|-\n3 |a [2Jb\n");
    }
}
