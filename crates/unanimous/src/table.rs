//! Aligned columns for people: no frames, two spaces between columns, nothing at the end of a line.

/// Rows below a header.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new<const N: usize>(columns: [&str; N]) -> Self {
        Self { rows: vec![columns.map(str::to_owned).to_vec()] }
    }

    /// Adds a row. Control characters, which could come from outside, are shown as spaces.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.rows[0].len());
        let plain = cells.map(|cell| cell.replace(char::is_control, " "));
        self.rows.push(plain.to_vec());
    }

    /// The text, without a line break at its end.
    pub(crate) fn text(&self) -> String {
        let width = |column: usize| {
            let widths = self.rows.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..self.rows[0].len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_with_text() {
        let mut table = Table::new(["NAME", "BALANCE", "NOTE"]);
        table.row(["Zoë".to_owned(), "₹1".to_owned(), String::new()]);
        table.row(["a\x1b[2Jb".to_owned(), "₹1,00,000".to_owned(), "x".to_owned()]);
        let expected = "NAME    BALANCE    NOTE\nZoë     ₹1\na [2Jb  ₹1,00,000  x";
        assert_eq!(table.text(), expected);
    }
}
