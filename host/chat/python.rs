//! What templates expect of Python: `json.dumps`, the text of values, and the clock.
//!
//! Templates are written for Jinja2 under Python, and a model was trained on the exact characters that came out:
//! blanks after commas in JSON, `1e-05` for a float, quotes of a printed dictionary.

use std::cell::Cell;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Python's methods of strings, lists and dictionaries: those that `minijinja_contrib` has, and three more.
pub(super) fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return unknown_method_callback(state, value, name, arguments);
    };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "rsplit" => {
            let (separator, splits): (&str, Option<i64>) = from_args(arguments)?;
            if separator.is_empty() {
                return Err(invalid("rsplit: empty separator"));
            }
            let parts = splits
                .and_then(|splits| usize::try_from(splits).ok())
                .map_or(usize::MAX, |splits| splits.saturating_add(1));
            let mut parts: Vec<Value> = text.rsplitn(parts, separator).map(Value::from).collect();
            parts.reverse();
            Ok(Value::from(parts))
        }
        _ => unknown_method_callback(state, value, name, arguments),
    }
}

/// More blanks than any template indents by; the number comes from the template, so it has to be bounded.
const MAX_INDENT: usize = 64;

/// The most values that are written at once: lists that hold a list twice, and so on, hold more than memory does.
const MAX_VALUES: usize = 1_000_000;

/// Counts a value that is written.
fn count(left: &Cell<usize>) -> Result<(), Error> {
    let rest = left.get().checked_sub(1);
    left.set(rest.ok_or_else(|| invalid(format!("the value is too large: it holds more than {MAX_VALUES} values")))?);
    Ok(())
}

/// How `json.dumps` lays out its text.
struct JsonStyle {
    /// Blanks per level, each value on a line of its own; `None` for one line.
    indent: Option<usize>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    sort_keys: bool,
    /// How many more values may be written.
    left: Cell<usize>,
}

/// The filter `tojson` with Hugging Face's defaults: no HTML escapes, no ASCII escapes, keys in their order.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > MAX_INDENT) {
        return Err(invalid(format!("tojson: expected an indent of at most {MAX_INDENT}")));
    }
    let (item_separator, key_separator) = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("tojson: separators has to hold two strings")),
    };
    let style = JsonStyle {
        indent,
        item_separator,
        key_separator,
        ensure_ascii: ensure_ascii.unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
        left: Cell::new(MAX_VALUES),
    };
    let mut json = String::new();
    style.write(value, 0, &mut json)?;
    Ok(json)
}

impl JsonStyle {
    fn write(&self, value: &Value, depth: usize, json: &mut String) -> Result<(), Error> {
        count(&self.left)?;
        if depth > 128 {
            return Err(invalid("tojson: the value is nested more than 128 levels deep"));
        }
        match value.kind() {
            ValueKind::None => json.push_str("null"),
            ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => json.push_str(&number(value, &["Infinity", "-Infinity", "NaN"])),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), json),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut items = Vec::new();
                for item in value.try_iter()?.checked() {
                    let mut text = String::new();
                    self.write(&item?, depth + 1, &mut text)?;
                    items.push(text);
                }
                self.write_items(['[', ']'], &items, depth, json);
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    let mut text = String::new();
                    self.write(&value.get_item(&key)?, depth + 1, &mut text)?;
                    pairs.push((json_key(&key)?, text));
                }
                if self.sort_keys {
                    pairs.sort();
                }
                let items: Vec<String> = pairs
                    .into_iter()
                    .map(|(key, text)| {
                        let mut pair = String::new();
                        self.write_string(&key, &mut pair);
                        pair + &self.key_separator + &text
                    })
                    .collect();
                self.write_items(['{', '}'], &items, depth, json);
            }
            kind => return Err(invalid(format!("tojson: {kind} has no JSON form"))),
        }
        Ok(())
    }

    fn write_items(&self, brackets: [char; 2], items: &[String], depth: usize, json: &mut String) {
        let line_start = |depth: usize| match self.indent {
            Some(width) if !items.is_empty() => format!("\n{}", " ".repeat(width * depth)),
            _ => String::new(),
        };
        json.push(brackets[0]);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                json.push_str(&self.item_separator);
            }
            json.push_str(&line_start(depth + 1));
            json.push_str(item);
        }
        json.push_str(&line_start(depth));
        json.push(brackets[1]);
    }

    fn write_string(&self, text: &str, json: &mut String) {
        json.push('"');
        for character in text.chars() {
            match character {
                '"' => json.push_str("\\\""),
                '\\' => json.push_str("\\\\"),
                '\n' => json.push_str("\\n"),
                '\r' => json.push_str("\\r"),
                '\t' => json.push_str("\\t"),
                '\u{8}' => json.push_str("\\b"),
                '\u{c}' => json.push_str("\\f"),
                _ if character < ' ' || (self.ensure_ascii && character > '~') => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(json, "\\u{unit:04x}");
                    }
                }
                _ => json.push(character),
            }
        }
        json.push('"');
    }
}

/// A key of a JSON object, as `json.dumps` makes it of a dictionary's key.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(number(key, &["Infinity", "-Infinity", "NaN"])),
        kind => Err(invalid(format!("tojson: {kind} cannot be a key"))),
    }
}

/// A number as Python prints it; `special` are the words for the two infinities and for what is no number.
fn number(value: &Value, special: &[&str; 3]) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) if float.is_nan() => special[2].to_owned(),
        Ok(float) if float.is_infinite() => special[usize::from(float < 0.0)].to_owned(),
        Ok(float) => float_repr(float),
        Err(_) => value.to_string(),
    }
}

/// Python's `repr` of a finite float: the shortest digits that read back as the same number, with an exponent of
/// at least two digits below 1e-4 and from 1e16.
fn float_repr(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = float.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// Python's `str` of a value: what `{{ value }}` writes.
pub(super) fn python_str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Undefined => Ok(String::new()),
        _ => python_repr(value, 0, &Cell::new(MAX_VALUES)),
    }
}

fn python_repr(value: &Value, depth: usize, left: &Cell<usize>) -> Result<String, Error> {
    count(left)?;
    if depth > 128 {
        return Err(invalid("the value is nested more than 128 levels deep"));
    }
    let items = |brackets: [&str; 2]| -> Result<String, Error> {
        let mut items = Vec::new();
        for item in value.try_iter()?.checked() {
            items.push(python_repr(&item?, depth + 1, left)?);
        }
        let comma = if items.len() == 1 && brackets[0] == "(" { "," } else { "" };
        Ok(format!("{}{}{comma}{}", brackets[0], items.join(", "), brackets[1]))
    };
    match value.kind() {
        ValueKind::Number => Ok(number(value, &["inf", "-inf", "nan"])),
        ValueKind::String => Ok(string_repr(value.as_str().unwrap_or_default())),
        ValueKind::Seq if value.is_tuple() => items(["(", ")"]),
        ValueKind::Seq => items(["[", "]"]),
        ValueKind::Map => {
            let mut pairs = Vec::new();
            for key in value.try_iter()?.checked() {
                let key = key?;
                let item = value.get_item(&key)?;
                pairs.push(format!(
                    "{}: {}",
                    python_repr(&key, depth + 1, left)?,
                    python_repr(&item, depth + 1, left)?
                ));
            }
            Ok(format!("{{{}}}", pairs.join(", ")))
        }
        _ => Ok(value.to_string()),
    }
}

/// Python's `repr` of a string: single quotes, unless it holds one and no double quote.
fn string_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut repr = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => repr.push_str("\\\\"),
            '\n' => repr.push_str("\\n"),
            '\r' => repr.push_str("\\r"),
            '\t' => repr.push_str("\\t"),
            _ if character == quote => {
                repr.push('\\');
                repr.push(quote);
            }
            _ if character.is_control() => {
                let _ = write!(repr, "\\x{:02x}", u32::from(character));
            }
            _ => repr.push(character),
        }
    }
    repr.push(quote);
    repr
}

/// A moment on the calendar and the clock, of no particular time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// Year, Gregorian.
    pub year: i32,
    /// Month, 1 to 12.
    pub month: u32,
    /// Day of the month, 1 to 31.
    pub day: u32,
    /// Hour, 0 to 23.
    pub hour: u32,
    /// Minute, 0 to 59.
    pub minute: u32,
    /// Second, 0 to 59.
    pub second: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl DateTime {
    /// This moment in local time: that of the variable `TZ`, or of the system.
    pub fn local_now() -> DateTime {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        DateTime::local(since_1970).unwrap_or_else(|| DateTime::from_unix(since_1970))
    }

    /// The moment `seconds` after 1 January 1970 UTC in local time, where the C library knows it.
    #[cfg(unix)]
    fn local(seconds: i64) -> Option<DateTime> {
        let seconds = libc::time_t::try_from(seconds).ok()?;
        // SAFETY: a `tm` is numbers and a pointer that may be null, so zeros are one.
        let mut parts: libc::tm = unsafe { std::mem::zeroed() };
        // SAFETY: both point to values of ours; the function writes to the second alone.
        let filled = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
        if filled.is_null() {
            return None;
        }
        Some(DateTime {
            year: parts.tm_year + 1900,
            month: u32::try_from(parts.tm_mon).ok()? + 1,
            day: u32::try_from(parts.tm_mday).ok()?,
            hour: u32::try_from(parts.tm_hour).ok()?,
            minute: u32::try_from(parts.tm_min).ok()?,
            second: u32::try_from(parts.tm_sec).ok()?,
        })
    }

    /// There is no C library to ask.
    #[cfg(not(unix))]
    fn local(_: i64) -> Option<DateTime> {
        None
    }

    /// The moment `seconds` after 1 January 1970 UTC.
    ///
    /// The calendar is Howard Hinnant's `civil_from_days`: years begin in March, so the leap day is the last of a
    /// year, and 400 years are one cycle of 146 097 days.
    pub fn from_unix(seconds: i64) -> DateTime {
        let days = seconds.div_euclid(86_400);
        let second_of_day = seconds.rem_euclid(86_400) as u32;
        let from_0000_03_01 = days + 719_468;
        let cycle = from_0000_03_01.div_euclid(146_097);
        let day_of_cycle = from_0000_03_01.rem_euclid(146_097);
        let year_of_cycle =
            (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
        let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
        let month = (month_from_march as u32 + 2) % 12 + 1;
        let year = year_of_cycle + 400 * cycle + i64::from(month <= 2);
        DateTime {
            year: year as i32,
            month,
            day,
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }

    /// Day of the year, 1 January being 1.
    fn day_of_year(self) -> u32 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let february = if leap { 29 } else { 28 };
        let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30];
        let months = self.month.saturating_sub(1).min(11) as usize;
        lengths[..months].iter().sum::<u32>() + self.day
    }

    /// Day of the week, Sunday being 0 (Sakamoto's rule).
    fn weekday(self) -> usize {
        const SHIFT: [i32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let month = self.month.clamp(1, 12);
        let year = self.year - i32::from(month < 3);
        let days = year + year.div_euclid(4) - year.div_euclid(100)
            + year.div_euclid(400)
            + SHIFT[month as usize - 1]
            + self.day as i32;
        days.rem_euclid(7) as usize
    }

    /// The moment in the form that `format` asks for, in C's `strftime` language, English names.
    pub(super) fn strftime(self, format: &str) -> Result<String, Error> {
        let month = MONTHS[self.month.clamp(1, 12) as usize - 1];
        let weekday = WEEKDAYS[self.weekday()];
        let hour12 = (self.hour + 11) % 12 + 1;
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            let mut directive = characters.next();
            // A minus takes the leading zero away.
            let padded = directive != Some('-');
            if !padded {
                directive = characters.next();
            }
            let two = |value: u32| {
                if padded { format!("{value:02}") } else { value.to_string() }
            };
            text += &match directive {
                Some('Y') => format!("{:04}", self.year),
                Some('y') => two(self.year.rem_euclid(100) as u32),
                Some('m') => two(self.month),
                Some('d') => two(self.day),
                Some('e') => format!("{:2}", self.day),
                Some('H') => two(self.hour),
                Some('I') => two(hour12),
                Some('M') => two(self.minute),
                Some('S') => two(self.second),
                Some('p') => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
                Some('B') => month.to_owned(),
                Some('b' | 'h') => month[..3].to_owned(),
                Some('A') => weekday.to_owned(),
                Some('a') => weekday[..3].to_owned(),
                Some('j') if padded => format!("{:03}", self.day_of_year()),
                Some('j') => self.day_of_year().to_string(),
                Some('F') => self.strftime("%Y-%m-%d")?,
                Some('T') => self.strftime("%H:%M:%S")?,
                Some('D') => self.strftime("%m/%d/%y")?,
                Some('%') => "%".to_owned(),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(invalid(format!("strftime_now: %{other} is not supported")));
                }
            };
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        for (float, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
        ] {
            assert_eq!(float_repr(float), text);
        }
    }

    #[test]
    fn dates_follow_the_calendar() {
        let leap_day = DateTime::from_unix(1_709_210_096);
        assert_eq!(
            leap_day.strftime("%A %d %B %Y, %H:%M:%S (%j) %a %b %-d %I%p %y %%").unwrap(),
            "Thursday 29 February 2024, 12:34:56 (060) Thu Feb 29 12PM 24 %"
        );
        let moon = DateTime::from_unix(-14_182_940);
        assert_eq!(moon.strftime("%a %F %T %-m %-I").unwrap(), "Sun 1969-07-20 20:17:40 7 8");
        assert_eq!(DateTime::from_unix(951_782_400).strftime("%D").unwrap(), "02/29/00");
        assert!(leap_day.strftime("%Q").unwrap_err().to_string().contains("%Q"));
        assert!(leap_day.strftime("%").is_err());
    }

    #[test]
    fn strings_are_quoted_as_in_python() {
        assert_eq!(string_repr("a"), "'a'");
        assert_eq!(string_repr("it's"), "\"it's\"");
        assert_eq!(string_repr("it's \"b\""), "'it\\'s \"b\"'");
        assert_eq!(string_repr("\n\u{1}é\\"), "'\\n\\x01é\\\\'");
    }
}
