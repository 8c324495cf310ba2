//! Activations in the order in which panels take them, so that they come by bulk copies: whoever makes them writes them so.
//!
//! Of each step of 128 values of all tokens there are two halves, those of its products 0 to 3 and 4 to 7: `[step][half][token][64]`. In a half a token has
//! eight *places* of eight values, two for each product, place `p` at `p` XOR token % 8, as a swizzled panel has it: a product's first has, of each of the
//! step's four chunks, its first value and its third, the other its second and its fourth.

use super::{CHUNK, STEP};

/// Values of a token in half a step.
pub const OF_TOKEN: u32 = 64;

/// Where a value of a token lies, of `n_tokens` together. A row is whole steps.
#[inline(always)]
pub fn index(token: u32, value: u32, n_tokens: u32) -> u32 {
    let (step, chunk, in_chunk) = (value / STEP, value % STEP / CHUNK, value % CHUNK);
    let (product, of_product) = (in_chunk / 4, in_chunk % 4);
    let place = product % 4 * 2 + of_product % 2;
    ((step * 2 + product / 4) * n_tokens + token) * OF_TOKEN + (place ^ (token % 8)) * 8 + chunk * 2 + of_product / 2
}

/// Where the first and the third of four values lie side by side, and the second and the fourth, of which `value` is the first: a multiple of four.
#[inline(always)]
pub fn pairs(token: u32, value: u32, n_tokens: u32) -> [u32; 2] {
    [index(token, value, n_tokens), index(token, value + 1, n_tokens)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_place_of_its_own_and_four_are_two_pairs() {
        for n_tokens in [1, 7, 9, 64] {
            let n = 3 * STEP;
            let mut taken = vec![false; (n_tokens * n) as usize];
            for token in 0..n_tokens {
                for value in 0..n {
                    let at = index(token, value, n_tokens);
                    assert!(!std::mem::replace(&mut taken[at as usize], true), "{value} of token {token}");
                    if value % 4 == 0 {
                        let [first, second] = pairs(token, value, n_tokens);
                        let at = |further| index(token, value + further, n_tokens);
                        assert_eq!([at(0), at(2), at(1), at(3)], [first, first + 1, second, second + 1]);
                        assert!(first % 2 == 0 && second % 2 == 0);
                    }
                }
            }
        }
    }
}
