//! Results as rows of a table, each printed when it is known: Markdown for people, the others for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A Markdown table.
    Md,
    /// One array of objects.
    Json,
    /// Comma-separated values with a line of names.
    Csv,
    /// An object a line.
    Jsonl,
}

/// A column of the Markdown table.
pub struct Column {
    /// What stands above it.
    pub title: &'static str,
    /// Characters to have room for.
    pub width: usize,
    /// Whether it holds numbers, which stand on the right.
    pub number: bool,
}

impl Column {
    /// A column of words.
    pub const fn text(title: &'static str, width: usize) -> Column {
        Column { title, width, number: false }
    }

    /// A column of numbers.
    pub const fn number(title: &'static str, width: usize) -> Column {
        Column { title, width, number: true }
    }

    fn pad(&self, text: &str) -> String {
        let width = self.width.max(self.title.chars().count());
        if self.number { format!("{text:>width$}") } else { format!("{text:<width$}") }
    }
}

/// Prints rows as they come.
pub struct Printer<'a, W: Write> {
    out: W,
    format: Format,
    columns: &'a [Column],
    heading: String,
    rows: usize,
}

impl<'a, W: Write> Printer<'a, W> {
    /// Prints to `out`; `columns` are the Markdown table's, and `heading` is what stands above it.
    pub fn new(out: W, format: Format, columns: &'a [Column], heading: String) -> Printer<'a, W> {
        Printer { out, format, columns, heading, rows: 0 }
    }

    /// Prints a row: `cells` for the table, `object` for the others. Objects of one table have the same keys.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn row(&mut self, cells: &[String], object: &Map<String, Value>) -> io::Result<()> {
        let first = self.rows == 0;
        self.rows += 1;
        match self.format {
            Format::Md => {
                if first {
                    writeln!(self.out, "{}\n", self.heading)?;
                    let titles: Vec<String> = self.columns.iter().map(|column| column.pad(column.title)).collect();
                    writeln!(self.out, "| {} |", titles.join(" | "))?;
                    let rules: Vec<String> = self.columns.iter().zip(&titles).map(rule).collect();
                    writeln!(self.out, "|{}|", rules.join("|"))?;
                }
                assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
                let cells: Vec<String> =
                    self.columns.iter().zip(cells).map(|(column, cell)| column.pad(cell)).collect();
                writeln!(self.out, "| {} |", cells.join(" | "))?;
            }
            Format::Json => {
                let before = if first { "[\n" } else { ",\n" };
                write!(self.out, "{before}  {}", serde_json::to_string(object)?)?;
            }
            Format::Jsonl => writeln!(self.out, "{}", serde_json::to_string(object)?)?,
            Format::Csv => {
                if first {
                    writeln!(self.out, "{}", object.keys().cloned().collect::<Vec<_>>().join(","))?;
                }
                writeln!(self.out, "{}", object.values().map(field).collect::<Vec<_>>().join(","))?;
            }
        }
        self.out.flush()
    }

    /// Prints what belongs after the last row.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<()> {
        match (self.format, self.rows) {
            (Format::Json, 0) => writeln!(self.out, "[]"),
            (Format::Json, _) => writeln!(self.out, "\n]"),
            _ => Ok(()),
        }
    }
}

/// The line below a title: on the right, a colon says that a column's content stands there.
fn rule((column, title): (&Column, &String)) -> String {
    let dashes = "-".repeat(title.chars().count() + 1);
    if column.number { format!("{dashes}:") } else { format!("{dashes}-") }
}

/// A value as a field of a line (RFC 4180); the values of an array with spaces between them.
fn field(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(field).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn printed(format: Format) -> String {
        let columns = [Column::text("name", 8), Column::number("t/s", 5)];
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format, &columns, "a device".into());
        for (name, rate) in [("a, \"b\"", 1.5), ("c", 2.0)] {
            let Value::Object(object) = json!({"name": name, "rate": rate, "samples": [1, 2], "none": null}) else {
                unreachable!("an object was written")
            };
            printer.row(&[name.into(), rate.to_string()], &object).unwrap();
        }
        printer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_is_padded_and_aligned() {
        let want =
            "a device\n\n| name     |   t/s |\n|----------|------:|\n| a, \"b\"   |   1.5 |\n| c        |     2 |\n";
        assert_eq!(printed(Format::Md), want);
    }

    #[test]
    fn programs_can_read_the_other_formats() {
        let array: Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        let lines: Vec<Value> =
            printed(Format::Jsonl).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(array, Value::Array(lines));
        assert_eq!(array[0]["name"], "a, \"b\"");
        assert_eq!(printed(Format::Csv), "name,rate,samples,none\n\"a, \"\"b\"\"\",1.5,1 2,\nc,2.0,1 2,\n");
    }
}
