//! Eight neighbouring elements of a cache as they lie in memory.
//!
//! Decoding loads keys and values well before it computes on them, and keeps what is on its way in as few registers as it
//! takes in memory. Packing is what `cache.rs` does when it stores an element, bit for bit, on eight elements of a lane.

use cuda_std::{
    BF16, F16, float, integer,
    memory::Vector16,
    types::{Element, pack_bf16, pack_f16},
    warp,
};

use crate::cache::{CacheElement, GROUP, Place, Q8_BLOCK, q8_scale, scale_of, turn_lane};

/// Eight elements in as many of these as their type takes; the rest is zero.
pub type Words = [u32; GROUP];

/// No elements yet.
pub const EMPTY: Words = [0; GROUP];

/// The rows of a cache, seen from a lane's elements.
#[derive(Clone, Copy)]
pub struct Rows<T> {
    elements: *const T,
    /// Q8_0's, of the elements' block.
    scales: *const F16,
}

/// A cache type that decoding reads and writes by [`Words`].
pub trait CacheWords: CacheElement {
    /// How many words eight elements take.
    const WORDS: usize;

    /// Whether the cache holds its blocks of 32 turned (`CacheElement::turn`).
    const TURNED: bool;

    /// Where the place's element is in row 0; the place is in that row.
    fn rows(cache: *const Self, place: Place) -> Rows<Self>;

    /// Eight elements of a row from a multiple of eight.
    ///
    /// # Safety
    /// - As for [`CacheElement::load_eight`].
    unsafe fn load<const HEAD_DIM: usize>(rows: Rows<Self>, row: u32) -> Words;

    /// What the words mean: values, and what they all are multiplied by.
    fn unpack(words: Words) -> ([f32; GROUP], f32);

    /// The words of values that are not turned yet. Collective as [`CacheElement::turn`].
    fn pack_eight(values: [f32; GROUP]) -> Words;

    /// Writes eight elements to a multiple of eight.
    ///
    /// # Safety
    /// - The place is within the cache, which is 16-byte aligned.
    unsafe fn write(cache: *mut Self, place: Place, words: Words);

    /// Turns one element as the cache holds it back. Collective over the warp, whose lanes have 32 neighbouring elements.
    fn turn_back(value: f32) -> f32;
}

macro_rules! floats {
    ($($element:ty: $words:literal, |$value:ident, $index:ident| $pack:expr;)*) => {$(
        impl CacheWords for $element {
            const WORDS: usize = $words;
            const TURNED: bool = false;

            #[inline(always)]
            fn rows(cache: *const Self, place: Place) -> Rows<Self> {
                let elements = cache.wrapping_add(place.row * place.head_dim + place.element);
                Rows { elements, scales: core::ptr::null() }
            }

            #[inline(always)]
            unsafe fn load<const HEAD_DIM: usize>(rows: Rows<Self>, row: u32) -> Words {
                let address = unsafe { rows.elements.add(row as usize * HEAD_DIM) }.cast::<Vector16>();
                let mut words = EMPTY;
                let mut first = 0;
                while first < Self::WORDS {
                    let Vector16(four) = unsafe { *address.add(first / 4) };
                    let mut index = 0;
                    while index < 4 {
                        words[first + index] = four[index];
                        index += 1;
                    }
                    first += 4;
                }
                words
            }

            #[inline(always)]
            fn unpack(words: Words) -> ([f32; GROUP], f32) {
                let mut values = [0.0; GROUP];
                let mut index = 0;
                while index < GROUP {
                    let first = index / Self::PER_VECTOR * 4;
                    let vector = [words[first], words[first + 1], words[first + 2], words[first + 3]];
                    values[index] = Self::of_vector(vector, index % Self::PER_VECTOR);
                    index += 1;
                }
                (values, 1.0)
            }

            #[inline(always)]
            fn pack_eight($value: [f32; GROUP]) -> Words {
                let mut words = EMPTY;
                let mut $index = 0;
                while $index < Self::WORDS {
                    words[$index] = $pack;
                    $index += 1;
                }
                words
            }

            #[inline(always)]
            unsafe fn write(cache: *mut Self, place: Place, words: Words) {
                let address = unsafe { cache.add(place.row * place.head_dim + place.element) }.cast::<Vector16>();
                let mut first = 0;
                while first < Self::WORDS {
                    let four = [words[first], words[first + 1], words[first + 2], words[first + 3]];
                    unsafe { *address.add(first / 4) = Vector16(four) }
                    first += 4;
                }
            }

            #[inline(always)]
            fn turn_back(value: f32) -> f32 {
                value
            }
        }
    )*};
}

floats! {
    f32: 8, |values, index| values[index].to_bits();
    F16: 4, |values, index| pack_f16(values[2 * index], values[2 * index + 1]);
    BF16: 4, |values, index| pack_bf16(values[2 * index], values[2 * index + 1]);
}

/// The float 2^23, whose mantissa has steps of 1: with a byte in place of its lowest it is 2^23 + byte.
const STEPS_OF_ONE: u32 = 0x4b00_0000;

/// Q8_0: eight integers in two words, the bits of their scale in a third.
impl CacheWords for i8 {
    const WORDS: usize = 3;
    const TURNED: bool = true;

    #[inline(always)]
    fn rows(cache: *const Self, place: Place) -> Rows<Self> {
        let elements = cache.wrapping_add(place.row * place.head_dim + place.element);
        Rows { elements, scales: scale_of(cache, place) }
    }

    #[inline(always)]
    unsafe fn load<const HEAD_DIM: usize>(rows: Rows<Self>, row: u32) -> Words {
        let row = row as usize;
        let integers = unsafe { *rows.elements.add(row * HEAD_DIM).cast::<u64>() };
        let scale = unsafe { *rows.scales.add(row * const { HEAD_DIM / Q8_BLOCK }) };
        let mut words = EMPTY;
        words[0] = integers as u32;
        words[1] = (integers >> 32) as u32;
        words[2] = u32::from(scale.to_bits());
        words
    }

    /// By byte selection and a subtraction: the conversion of an 8-bit integer is one of the slow instructions.
    #[inline(always)]
    fn unpack(words: Words) -> ([f32; GROUP], f32) {
        // The bytes plus 128, so that none is negative.
        let raised = [words[0] ^ 0x8080_8080, words[1] ^ 0x8080_8080];
        let mut values = [0.0; GROUP];
        let mut index = 0;
        while index < GROUP {
            let bits = integer::pick_bytes(raised[index / 4], STEPS_OF_ONE, 0x7650 + index as u32 % 4);
            values[index] = f32::from_bits(bits) - (8_388_608.0 + 128.0);
            index += 1;
        }
        (values, F16::from_bits(words[2] as u16).to_f32())
    }

    #[inline(always)]
    fn pack_eight(values: [f32; GROUP]) -> Words {
        let values = Self::turn(values);
        let mut largest = 0.0;
        let mut index = 0;
        while index < GROUP {
            largest = float::max(largest, float::abs(values[index]));
            index += 1;
        }
        largest = float::max(largest, warp::shuffle_xor(largest, 1));
        largest = float::max(largest, warp::shuffle_xor(largest, 2));
        let (scale, inverse) = q8_scale(largest);
        let mut words = EMPTY;
        index = 0;
        while index < GROUP {
            let integer = float::round(values[index] * inverse) as i8;
            words[index / 4] |= u32::from(integer.cast_unsigned()) << (8 * (index % 4));
            index += 1;
        }
        words[2] = u32::from(scale.to_bits());
        words
    }

    #[inline(always)]
    unsafe fn write(cache: *mut Self, place: Place, words: Words) {
        let integers = u64::from(words[0]) | u64::from(words[1]) << 32;
        unsafe {
            *cache.add(place.row * place.head_dim + place.element).cast::<u64>() = integers;
            if place.element.is_multiple_of(Q8_BLOCK) {
                *scale_of(cache, place).cast_mut() = F16::from_bits(words[2] as u16);
            }
        }
    }

    #[inline(always)]
    fn turn_back(value: f32) -> f32 {
        turn_lane(value)
    }
}
