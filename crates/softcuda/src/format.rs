//! C's `printf`, as far as device code has it.

/// What a conversion takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    /// 4 bytes.
    Word,
    /// 8 bytes: an integer, a double or a pointer.
    Double,
    /// A pointer to text.
    Text,
}

#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    /// Sign, prefix and digits, brought to the width.
    fn pad(&self, sign: &str, digits: &str, zeros: bool) -> String {
        let len = sign.chars().count() + digits.chars().count();
        let fill = self.width.saturating_sub(len);
        match (self.left, zeros && self.zero) {
            (true, _) => format!("{sign}{digits}{}", " ".repeat(fill)),
            (false, true) => format!("{sign}{}{digits}", "0".repeat(fill)),
            (false, false) => format!("{}{sign}{digits}", " ".repeat(fill)),
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn integer(&self, sign: &str, digits: String) -> String {
        let least = self.precision.unwrap_or(1);
        let digits = if digits == "0" && least == 0 { String::new() } else { digits };
        let digits = format!("{}{digits}", "0".repeat(least.saturating_sub(digits.len())));
        self.pad(sign, &digits, self.precision.is_none())
    }

    fn float(&self, value: f64, conversion: char) -> String {
        let upper = conversion.is_ascii_uppercase();
        let sign = self.sign(value.is_sign_negative());
        let magnitude = value.abs();
        if !magnitude.is_finite() {
            let word = if magnitude.is_nan() { "nan" } else { "inf" };
            let word = if upper { word.to_uppercase() } else { word.to_owned() };
            return self.pad(sign, &word, false);
        }
        let precision = self.precision.unwrap_or(6);
        let digits = match conversion.to_ascii_lowercase() {
            'f' => fixed(magnitude, precision, self.alternate),
            'e' => exponential(magnitude, precision, self.alternate),
            'a' => hexadecimal(magnitude, self.precision),
            _ => general(magnitude, precision.max(1), self.alternate),
        };
        let digits = if upper { digits.to_uppercase() } else { digits };
        match digits.get(..2).filter(|prefix| prefix.eq_ignore_ascii_case("0x")) {
            Some(prefix) => self.pad(&format!("{sign}{prefix}"), &digits[2..], true),
            None => self.pad(sign, &digits, true),
        }
    }
}

fn fixed(value: f64, precision: usize, point: bool) -> String {
    let text = format!("{value:.precision$}");
    if precision == 0 && point { text + "." } else { text }
}

fn exponential(value: f64, precision: usize, point: bool) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let point = if precision == 0 && point { "." } else { "" };
    format!("{mantissa}{point}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `%g`: the shorter of the two, without zeros at the end unless `#` asks for them.
fn general(value: f64, precision: usize, alternate: bool) -> String {
    let text = format!("{value:.*e}", precision - 1);
    let exponent: i32 = text.split_once('e').and_then(|parts| parts.1.parse().ok()).unwrap_or(0);
    let strip = |digits: &str| match alternate || !digits.contains('.') {
        true => digits.to_owned(),
        false => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = exponential(value, precision - 1, alternate);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", strip(mantissa));
    }
    strip(&fixed(value, (precision as i32 - 1 - exponent).max(0) as usize, alternate))
}

fn hexadecimal(value: f64, precision: Option<usize>) -> String {
    let bits = value.to_bits();
    let (biased, fraction) = ((bits >> 52) as i32 & 0x7ff, bits & ((1 << 52) - 1));
    if value == 0.0 {
        return format!(
            "0x0{}p+0",
            precision.filter(|&p| p > 0).map_or(String::new(), |p| format!(".{}", "0".repeat(p)))
        );
    }
    let (mut whole, exponent) = if biased == 0 { (fraction, -1022) } else { (fraction | 1 << 52, biased - 1023) };
    let digits = match precision {
        Some(p) if p < 13 => {
            let shift = 4 * (13 - p);
            let (kept, lost, half) = (whole >> shift, whole & ((1 << shift) - 1), 1u64 << (shift - 1));
            whole = (kept + (lost > half || lost == half && kept & 1 == 1) as u64) << shift;
            p
        }
        Some(p) => p,
        None => 13 - (whole & ((1 << 52) - 1) | 1 << 52).trailing_zeros() as usize / 4,
    };
    let mut text = format!("{:013x}", whole & ((1 << 52) - 1));
    text.truncate(digits.min(13));
    text += &"0".repeat(digits.saturating_sub(13));
    let point = if text.is_empty() { "" } else { "." };
    format!("0x{}{point}{text}p{exponent:+}", whole >> 52)
}

/// Formats as `printf` does; `next` gives an argument, and the text where it points to one.
///
/// # Errors
/// Those of `next`.
pub(crate) fn format<E>(text: &str, mut next: impl FnMut(Argument) -> Result<(u64, String), E>) -> Result<String, E> {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(&flag) = rest.peek() {
            match flag {
                '-' => spec.left = true,
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => break,
            }
            rest.next();
        }
        let number = |rest: &mut std::iter::Peekable<std::str::Chars>,
                      next: &mut dyn FnMut(Argument) -> Result<(u64, String), E>| {
            if rest.next_if_eq(&'*').is_some() {
                return next(Argument::Word).map(|(value, _)| value as u32 as i32 as i64);
            }
            let mut value = 0i64;
            while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
                value = (10 * value + digit as i64).min(1 << 16);
                rest.next();
            }
            Ok(value)
        };
        let width = number(&mut rest, &mut next)?;
        spec.left |= width < 0;
        spec.width = width.unsigned_abs().min(1 << 16) as usize;
        if rest.next_if_eq(&'.').is_some() {
            spec.precision = usize::try_from(number(&mut rest, &mut next)?).ok();
        }
        let mut long = false;
        let mut short = 0;
        while let Some(&modifier) = rest.peek() {
            match modifier {
                'l' | 'j' | 'z' | 't' | 'L' | 'q' => long = true,
                'h' => short += 1,
                _ => break,
            }
            rest.next();
        }
        let kind = if long { Argument::Double } else { Argument::Word };
        // What a narrower integer keeps.
        let bits = [if long { 64 } else { 32 }, 16, 8][short.min(2)];
        let Some(conversion) = rest.next() else {
            out.push('%');
            break;
        };
        match conversion {
            '%' => out.push('%'),
            'd' | 'i' => {
                let value = next(kind)?.0;
                let value = (value << (64 - bits)) as i64 >> (64 - bits);
                let digits = value.unsigned_abs().to_string();
                out += &spec.integer(spec.sign(value < 0), digits);
            }
            'u' | 'o' | 'x' | 'X' => {
                let value = next(kind)?.0 << (64 - bits) >> (64 - bits);
                let (prefix, digits) = match conversion {
                    'u' => ("", value.to_string()),
                    'o' => (if spec.alternate && value != 0 { "0" } else { "" }, format!("{value:o}")),
                    'x' => (if spec.alternate && value != 0 { "0x" } else { "" }, format!("{value:x}")),
                    _ => (if spec.alternate && value != 0 { "0X" } else { "" }, format!("{value:X}")),
                };
                out += &spec.integer(prefix, digits);
            }
            'c' => {
                let value = next(Argument::Word)?.0 as u8 as char;
                out += &spec.pad("", &value.to_string(), false);
            }
            's' => {
                let text = next(Argument::Text)?.1;
                let kept: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
                out += &spec.pad("", &kept, false);
            }
            'p' => {
                let value = next(Argument::Double)?.0;
                let digits = if value == 0 { "(nil)".to_owned() } else { format!("{value:#x}") };
                out += &spec.pad("", &digits, false);
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'a' | 'A' => {
                let value = f64::from_bits(next(Argument::Double)?.0);
                out += &spec.float(value, conversion);
            }
            other => {
                out.push('%');
                out.push(other);
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, arguments: &[u64]) -> String {
        let mut left = arguments.iter();
        let next = |_| Ok::<_, ()>((*left.next().expect("an argument"), "text".to_owned()));
        format(text, next).expect("formats")
    }

    /// Right by glibc's printf.
    #[test]
    fn conversions_are_those_of_c() {
        let pi = std::f64::consts::PI.to_bits();
        let cases: &[(&str, &[u64], &str)] = &[
            ("%d %i|%5d|%-5d|%05d|%+d", &[-7i32 as u32 as u64, 3, 42, 42, 42, 42], "-7 3|   42|42   |00042|+42"),
            ("%u %x %X %o %#x %#o", &[u32::MAX as u64, 255, 255, 8, 255, 8], "4294967295 ff FF 10 0xff 010"),
            ("%lld %llu %lx", &[-1i64 as u64, u64::MAX, 1 << 40], "-1 18446744073709551615 10000000000"),
            ("%hd %hhd %hhu", &[0x1ffff, 0x1ff, 0x1ff], "-1 -1 255"),
            ("%f %.2f %8.3f|%-8.1f|%08.2f", &[pi; 5], "3.141593 3.14    3.142|3.1     |00003.14"),
            (
                "%e %.0e %E",
                &[1234.5f64.to_bits(), 1234.5f64.to_bits(), 0.00012f64.to_bits()],
                "1.234500e+03 1e+03 1.200000E-04",
            ),
            (
                "%g %g %g %g",
                &[100000f64.to_bits(), 1e6f64.to_bits(), 0.0001f64.to_bits(), 1e-5f64.to_bits()],
                "100000 1e+06 0.0001 1e-05",
            ),
            ("%.3g %#g %G", &[pi, 2f64.to_bits(), 1e-10f64.to_bits()], "3.14 2.00000 1E-10"),
            ("%a %.1a %a", &[1f64.to_bits(), pi, 0.5f64.to_bits()], "0x1p+0 0x1.9p+1 0x1p-1"),
            (
                "%f %F %5.1f",
                &[f64::INFINITY.to_bits(), f64::NAN.to_bits(), f64::NEG_INFINITY.to_bits()],
                "inf NAN  -inf",
            ),
            ("%s|%.2s|%6s|%c%c", &[0, 0, 0, 104, 105], "text|te|  text|hi"),
            ("%p %p", &[0x7000_0000_0000, 0], "0x700000000000 (nil)"),
            ("100%% %*d %.*f", &[5, 42, 1, pi], "100%    42 3.1"),
            ("%.3d|%.0d|% d|%5.3d", &[7, 0, 7, 7], "007|| 7|  007"),
            ("%y %", &[], "%y %"),
        ];
        for (text, arguments, expected) in cases {
            assert_eq!(with(text, arguments), *expected, "{text}");
        }
    }
}
