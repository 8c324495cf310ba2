//! The numbers in names of PTX: those of registers and labels.

/// Stands before the difference to a number that is no smaller, and before that to a smaller one: bytes that no PTX has.
const MARKS: [u8; 2] = [0xff, 0xfe];

/// The most digits of a number that is a difference in the text.
const MOST_DIGITS: usize = 9;

/// The text with the numbers in names, such as `%rd12` and `$L__BB3_7`, as their differences to the last ones there, in decimal digits behind a byte that
/// says which of the two is larger: 0xff where none of them is, or the later one, 0xfe otherwise. A number's place is what its name has
/// before it, other numbers left out. The first ones are differences to 0; numbers with zeros before them, or of more than nine digits, stay.
///
/// LLVM numbers registers through a kernel: what does the same has other numbers wherever it stands, and one difference. So the text compresses to little
/// more than half of what it does as it is.
pub fn numbers_as_differences(ptx: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(ptx.len());
    // The last number of each place.
    let mut last: Vec<(Vec<u8>, u64)> = Vec::new();
    let mut rest = ptx.as_bytes();
    while let Some(start) = rest.iter().position(|byte| matches!(byte, b'%' | b'$')) {
        text.extend_from_slice(&rest[..=start]);
        let mut place = vec![rest[start]];
        rest = &rest[start + 1..];
        while let Some(byte) = rest.first().copied().filter(|byte| is_of_name(*byte)) {
            // All digits of a number that stays, or a byte of what is none.
            let n_digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (part, behind) = rest.split_at(n_digits.max(1));
            rest = behind;
            if n_digits == 1 || (2..=MOST_DIGITS).contains(&n_digits) && byte != b'0' {
                let number = part.iter().fold(0, |number, digit| 10 * number + u64::from(digit - b'0'));
                let index = last.iter().position(|(of, _)| *of == place).unwrap_or_else(|| {
                    last.push((place.clone(), 0));
                    last.len() - 1
                });
                let before = std::mem::replace(&mut last[index].1, number);
                text.push(MARKS[usize::from(number < before)]);
                text.extend_from_slice(number.abs_diff(before).to_string().as_bytes());
                place.push(MARKS[0]);
            } else {
                text.extend_from_slice(part);
                place.extend_from_slice(part);
            }
        }
    }
    text.extend_from_slice(rest);
    text
}

/// Whether a byte belongs to a name behind its first.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_the_same_is_the_same_text() {
        let text = |ptx| numbers_as_differences(ptx).iter().map(|byte| char::from(*byte)).collect::<String>();
        assert_eq!(
            text("add.s32 %r41, %r40, %r7;\n@%p2 bra $L__BB3_12;\nadd.s32 %r52, %r51, %r18;"),
            "add.s32 %r\u{ff}41, %r\u{fe}1, %r\u{fe}33;\n@%p\u{ff}2 bra $L__BB\u{ff}3_\u{ff}12;\nadd.s32 %r\u{ff}45, %r\u{fe}1, %r\u{fe}33;"
        );
        // Numbers elsewhere, and those that would not come back.
        let others = "ld.param.b32 [kernel_8_param_0+12], 0f3F800000; %tid.x; %r007, %r1234567890;\n";
        assert_eq!(text(others), others);
        assert_eq!(text("%r0+8 %r0"), "%r\u{ff}0+8 %r\u{ff}0");
    }
}
