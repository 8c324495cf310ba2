//! Floating-point formats of 8 bits and fewer.

/// A format: bits of the fraction, bias of the exponent, the largest code, and what is special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mini {
    fraction: u32,
    bias: i32,
    /// The code of the largest finite value.
    largest: u32,
    /// Bits, sign included.
    bits: u32,
    /// The code of NaN, for formats that have one.
    nan: Option<u32>,
    /// The code of infinity, for those that have one.
    infinity: Option<u32>,
}

pub(crate) const E4M3: Mini = Mini { fraction: 3, bias: 7, largest: 0x7e, bits: 8, nan: Some(0x7f), infinity: None };
pub(crate) const E5M2: Mini =
    Mini { fraction: 2, bias: 15, largest: 0x7b, bits: 8, nan: Some(0x7f), infinity: Some(0x7c) };
pub(crate) const E2M3: Mini = Mini { fraction: 3, bias: 1, largest: 0x1f, bits: 6, nan: None, infinity: None };
pub(crate) const E3M2: Mini = Mini { fraction: 2, bias: 3, largest: 0x1f, bits: 6, nan: None, infinity: None };
pub(crate) const E2M1: Mini = Mini { fraction: 1, bias: 1, largest: 0x7, bits: 4, nan: None, infinity: None };

impl Mini {
    pub(crate) const fn is_four_bits(self) -> bool {
        self.bits == 4
    }

    fn sign(self) -> u32 {
        1 << (self.bits - 1)
    }

    pub(crate) fn decode(self, code: u32) -> f64 {
        let magnitude = code & (self.sign() - 1);
        let value = if self.infinity.is_some_and(|infinity| magnitude > infinity) || self.nan == Some(magnitude) {
            f64::NAN
        } else if self.infinity == Some(magnitude) {
            f64::INFINITY
        } else {
            let (exponent, fraction) = ((magnitude >> self.fraction) as i32, magnitude & ((1 << self.fraction) - 1));
            let whole = if exponent == 0 { fraction } else { fraction | 1 << self.fraction };
            whole as f64 * 2f64.powi(exponent.max(1) - self.bias - self.fraction as i32)
        };
        if code & self.sign() != 0 { -value } else { value }
    }

    /// The nearest value, ties to even; what is too large becomes the largest. A format without NaN gets its largest for it.
    pub(crate) fn encode(self, x: f64) -> u32 {
        if x.is_nan() {
            return self.nan.unwrap_or(self.largest);
        }
        let sign = if x.is_sign_negative() { self.sign() } else { 0 };
        let magnitude = x.abs();
        if magnitude == 0.0 {
            return sign;
        }
        let least = 1 - self.bias;
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(least);
        if exponent > 64 {
            return sign | self.largest;
        }
        let steps = (magnitude * 2f64.powi(self.fraction as i32 - exponent)).round_ties_even() as u32;
        sign | (((exponent - least) as u32) << self.fraction).saturating_add(steps).min(self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_and_the_nearest_is_chosen() {
        for format in [E4M3, E5M2, E2M3, E3M2, E2M1] {
            let codes: Vec<u32> = (0..=format.largest).collect();
            for &code in &codes {
                assert_eq!(format.encode(format.decode(code)), code, "{format:?}");
                assert_eq!(format.encode(-format.decode(code)), code | format.sign(), "{format:?}");
            }
            for pair in codes.windows(2) {
                let (low, high) = (format.decode(pair[0]), format.decode(pair[1]));
                assert!(low < high);
                let middle = (low + high) / 2.0;
                assert_eq!(
                    format.encode(middle),
                    if pair[0] % 2 == 0 { pair[0] } else { pair[1] },
                    "{format:?} {middle}"
                );
                assert_eq!(format.encode(middle.next_up()), pair[1]);
                assert_eq!(format.encode(middle.next_down()), pair[0]);
            }
            assert_eq!(format.encode(f64::INFINITY), format.largest);
        }
        assert_eq!((E4M3.decode(E4M3.largest), E5M2.decode(E5M2.largest)), (448.0, 57344.0));
        assert_eq!((E2M1.decode(7), E2M3.decode(0x1f), E3M2.decode(0x1f)), (6.0, 7.5, 28.0));
        assert!(E4M3.decode(0xff).is_nan() && E5M2.decode(0x7e).is_nan() && E5M2.decode(0xfc) == f64::NEG_INFINITY);
    }
}
