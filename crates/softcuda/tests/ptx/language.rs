// Ordinary Rust, compiled twice: by the host into the test, and for nvptx64 into `language.ptx` (one kernel per
// function, which calls it for each thread's elements). Both must give the same bits.

const TABLE: [u32; 8] = [1, 2, 3, 5, 8, 13, 21, 34];
static NAMES: [&[u8]; 3] = [b"one", b"three", b"seven"];

#[inline(never)]
fn digest(buffer: &mut [u8; 64], value: u64, seed: u32) -> u64 {
    let (mut length, mut rest) = (0, value);
    while rest != 0 && length < 60 {
        buffer[length] = (rest % 10) as u8;
        rest /= 10;
        length += 1;
    }
    let mut sum = 0u64;
    for j in 0..length {
        sum = sum.wrapping_mul(31).wrapping_add(buffer[(j * 7 + (seed & 0xffff) as usize) % length] as u64);
    }
    sum
}

pub fn integers(v: u32, w: u32) -> u64 {
    let mut s = v as u64 * w as u64;
    s ^= ((v as u128 * s as u128) >> 50) as u64;
    s = s.rotate_left(v & 63);
    s ^= s.leading_zeros() as u64 ^ (s.trailing_zeros() as u64) << 8 ^ (v.count_ones() as u64) << 16;
    s ^= v.swap_bytes() as u64 ^ (v.reverse_bits() as u64) << 32;
    s = s.wrapping_add(v.checked_add(w).unwrap_or(17) as u64);
    s ^= v.saturating_sub(w) as u64 ^ (v as i32).saturating_add(w as i32) as u64;
    if w != 0 {
        s ^= ((v % w) as u64).wrapping_add(s / w as u64);
        s ^= (v as i32).wrapping_rem(w as i32) as u64;
    }
    s ^= ((v as u128).wrapping_mul(0x1234_5678_90ab_cdef_1234).wrapping_add(s as u128) >> 3) as u64;
    s ^= TABLE[(v & 7) as usize] as u64;
    s ^= NAMES[(w % 3) as usize].len() as u64 + NAMES[(v % 3) as usize][0] as u64;
    s = match v % 11 {
        0 => s.wrapping_add(5),
        1 => s ^ 99,
        2 => s.wrapping_mul(3),
        3 => s.wrapping_sub(1),
        4 => s | 1,
        5 => s & !7,
        6 => !s,
        7 => s << 3,
        8 => ((s as i64) >> 2) as u64,
        _ => s,
    };
    let mut buffer = [0u8; 64];
    let sum = digest(&mut buffer, s, v);
    let (product, over) = v.overflowing_mul(w);
    s ^= sum ^ product as u64 ^ (over as u64) << 40;
    s ^= ((v as i16).wrapping_abs() as u64) << 4 ^ (v as u8).wrapping_mul(w as u8) as u64;
    s ^ v.abs_diff(w) as u64 ^ (v as i8 as i64 >> (w & 7)) as u64 ^ buffer[(w & 63) as usize] as u64
}

pub fn conversions(v: f32) -> u64 {
    let mut s = v as i8 as u64;
    for part in
        [v as u8 as u64, v as i16 as u64, v as u16 as u64, v as i32 as u64, v as u32 as u64, v as i64 as u64, v as u64]
    {
        s = s.rotate_left(9) ^ part;
    }
    let wide = v as f64 * 1.1 + 0.3;
    if !v.is_nan() {
        s ^= wide.to_bits() ^ (((wide / 3.0) as f32).to_bits() as u64) << 3;
    }
    s ^= (s as f32).to_bits() as u64 ^ (s as i64 as f64).to_bits() ^ ((s as i32 as f32).to_bits() as u64) << 7;
    s ^ v.is_nan() as u64
}

pub fn floats(v: f32, w: f32) -> f32 {
    let mut s = v * w + v / w - (1.0 / v) * w;
    if v < w {
        s -= 1.0;
    }
    if v != w {
        s += 2.0;
    }
    if !(v >= w) {
        s *= 3.0;
    }
    s = s.max(v).min(1e6) + v.abs() + v.copysign(w) + w.clamp(-2.0, 7.5);
    let mut sum = 0.0;
    let mut n = 0;
    while n < 20 && sum < 100.0 {
        sum += v.abs() * 0.37;
        n += 1;
    }
    s + sum * n as f32
}
