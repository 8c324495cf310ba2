//! Matrix products on tensor cores: `mma.sync.m16n8k16` on 16-bit floats, summed in `f32`, and `m16n8k32` on 8-bit integers, summed in `i32`.
//!
//! A warp holds matrices in *fragments*, a few registers a lane. With `group = lane / 4` and `member = lane % 4`
//! (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//!
//! | matrix | registers | register r holds |
//! |---|---|---|
//! | A, 16 × 16 | `[u32; 4]`, two values each | row `group + 8 (r & 1)`, columns `2 member + 8 (r >> 1)` and the next |
//! | B, 16 × 8 | `[u32; 2]`, two values each | rows `2 member + 8 r` and the next, column `group` |
//! | C and D, 16 × 8 | `[f32; 4]` | row `group + 8 (r >> 1)`, column `2 member + (r & 1)` |
//!
//! Of 8-bit integers ("Matrix fragments for mma.m16n8k32") a register has four, and A is 16 × 32, B 32 × 8:
//!
//! | matrix | registers | register r holds |
//! |---|---|---|
//! | A | `[u32; 4]` | row `group + 8 (r & 1)`, columns `4 member + 16 (r >> 1)` and the three behind it |
//! | B | `[u32; 2]` | rows `4 member + 16 r` and the three behind it, column `group` |
//! | C and D | `[i32; 4]` | as above |
//!
//! So two C fragments side by side, rounded and packed, are an A fragment: what a product made goes into the next one
//! without leaving its registers.
//!
//! Every function here is collective: all 32 lanes of the warp must call it together.

use crate::{
    shared::Shared,
    types::{BF16, Element, F16},
};

/// A 16-bit float that tensor cores multiply.
pub trait Operand: Element {
    /// A · B + C.
    fn multiply_add(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4];

    /// Two values rounded to nearest, the first in the lower half.
    fn pack(low: f32, high: f32) -> u32;
}

macro_rules! operand {
    ($($element:ty: $name:literal;)*) => {$(
        impl Operand for $element {
            #[inline(always)]
            fn multiply_add(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
                #[cfg(target_arch = "nvptx64")]
                {
                    let (d0, d1, d2, d3): (f32, f32, f32, f32);
                    // SAFETY: arithmetic on registers; the caller is collective.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "mma.sync.aligned.m16n8k16.row.col.f32.", $name, ".", $name, ".f32 ",
                                "{{{}, {}, {}, {}}}, {{{}, {}, {}, {}}}, {{{}, {}}}, {{{}, {}, {}, {}}};"
                            ),
                            out(reg32) d0, out(reg32) d1, out(reg32) d2, out(reg32) d3,
                            in(reg32) a[0], in(reg32) a[1], in(reg32) a[2], in(reg32) a[3],
                            in(reg32) b[0], in(reg32) b[1],
                            in(reg32) c[0], in(reg32) c[1], in(reg32) c[2], in(reg32) c[3],
                            options(pure, nomem, nostack)
                        );
                    }
                    [d0, d1, d2, d3]
                }
                #[cfg(not(target_arch = "nvptx64"))]
                {
                    let _ = (a, b, c);
                    crate::device_only()
                }
            }

            #[inline(always)]
            fn pack(low: f32, high: f32) -> u32 {
                #[cfg(target_arch = "nvptx64")]
                {
                    let packed: u32;
                    // SAFETY: a register conversion.
                    unsafe {
                        core::arch::asm!(
                            concat!("cvt.rn.", $name, "x2.f32 {}, {}, {};"),
                            out(reg32) packed, in(reg32) high, in(reg32) low,
                            options(pure, nomem, nostack)
                        );
                    }
                    packed
                }
                #[cfg(not(target_arch = "nvptx64"))]
                {
                    let _ = (low, high);
                    crate::device_only()
                }
            }
        }
    )*};
}

operand! {
    F16: "f16";
    BF16: "bf16";
}

/// A · B + C of 8-bit integers with sign. Exact while sums fit 32 bits; past that they wrap.
#[inline(always)]
pub fn multiply_add_8(a: [u32; 4], b: [u32; 2], c: [i32; 4]) -> [i32; 4] {
    #[cfg(target_arch = "nvptx64")]
    {
        let (d0, d1, d2, d3): (i32, i32, i32, i32);
        // SAFETY: arithmetic on registers; the caller is collective.
        unsafe {
            core::arch::asm!(
                "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {{{}, {}, {}, {}}}, {{{}, {}, {}, {}}}, {{{}, {}}}, {{{}, {}, {}, {}}};",
                out(reg32) d0, out(reg32) d1, out(reg32) d2, out(reg32) d3,
                in(reg32) a[0], in(reg32) a[1], in(reg32) a[2], in(reg32) a[3],
                in(reg32) b[0], in(reg32) b[1],
                in(reg32) c[0], in(reg32) c[1], in(reg32) c[2], in(reg32) c[3],
                options(pure, nomem, nostack)
            );
        }
        [d0, d1, d2, d3]
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (a, b, c);
        crate::device_only()
    }
}

macro_rules! load_matrices {
    ($($(#[$doc:meta])* $name:ident: $suffix:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// - The 16 bytes from element `index` on are within the array and 16-byte aligned, in every lane; barriers
        ///   separate this from other threads' writes to them.
        #[inline(always)]
        pub unsafe fn $name<T: Operand>(array: Shared<T>, index: u32) -> [u32; 4] {
            #[cfg(target_arch = "nvptx64")]
            {
                let (r0, r1, r2, r3): (u32, u32, u32, u32);
                // SAFETY: within the array by this function's contract; the caller is collective.
                unsafe {
                    core::arch::asm!(
                        concat!("ldmatrix.sync.aligned.m8n8.x4", $suffix, ".shared.b16 {{{}, {}, {}, {}}}, [{}];"),
                        out(reg32) r0, out(reg32) r1, out(reg32) r2, out(reg32) r3,
                        in(reg32) array.element_address(index),
                        options(pure, readonly, nostack)
                    );
                }
                [r0, r1, r2, r3]
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = array.element_address(index);
                crate::device_only()
            }
        }
    )*};
}

load_matrices! {
    /// Four 8 × 8 matrices: lane `8 m + r` names the 8 contiguous values of row `r` of matrix `m` by its `index`. Register
    /// `m` gets row `group`, columns `2 member` and the next, of matrix `m`.
    load_matrices: "";
    /// Four 8 × 8 matrices as [`load_matrices`], each transposed: register `m` gets rows `2 member` and the next, column
    /// `group`, of matrix `m`.
    load_matrices_transposed: ".trans";
}
