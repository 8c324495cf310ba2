//! The operands of a product that are wanted late.

use super::Operands;

/// The operands that are wanted at the end of each turn, and take no registers before where they come from memory.
pub trait Ends: Copy {
    /// [`Operands::bias`].
    fn bias(self) -> *const f32;
    /// [`Operands::residual`].
    fn residual(self) -> *const f32;
    /// [`Operands::out`].
    fn out(self) -> *mut f32;
    /// [`Operands::quantised_out`].
    fn quantised_out(self) -> *mut u32;
    /// [`Operands::split`].
    fn split(self) -> u32;
}

impl Ends for &Operands {
    #[inline(always)]
    fn bias(self) -> *const f32 {
        self.bias
    }

    #[inline(always)]
    fn residual(self) -> *const f32 {
        self.residual
    }

    #[inline(always)]
    fn out(self) -> *mut f32 {
        self.out
    }

    #[inline(always)]
    fn quantised_out(self) -> *mut u32 {
        self.quantised_out
    }

    #[inline(always)]
    fn split(self) -> u32 {
        self.split
    }
}
