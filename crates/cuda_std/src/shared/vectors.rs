//! Several neighbouring elements of shared memory in one access.

use super::Shared;

impl Shared<u32> {
    /// Words `index` to `index + 3` in one access.
    ///
    /// # Safety
    /// - As for [`Shared::get`], and the first word is 16-byte aligned.
    #[inline(always)]
    pub unsafe fn get_four(self, index: u32) -> [u32; 4] {
        #[cfg(target_arch = "nvptx64")]
        {
            let (a, b, c, d): (u32, u32, u32, u32);
            // SAFETY: within the array and aligned by this function's contract.
            unsafe {
                core::arch::asm!(
                    "ld.shared.v4.b32 {{{}, {}, {}, {}}}, [{}];",
                    out(reg32) a, out(reg32) b, out(reg32) c, out(reg32) d, in(reg32) self.element_address(index),
                    options(readonly, nostack)
                );
            }
            [a, b, c, d]
        }
        #[cfg(not(target_arch = "nvptx64"))]
        {
            let _ = self.element_address(index);
            crate::device_only()
        }
    }

    /// Words `index` and `index + 1` in one access.
    ///
    /// # Safety
    /// - As for [`Shared::get`], and the first word is 8-byte aligned.
    #[inline(always)]
    pub unsafe fn get_two(self, index: u32) -> [u32; 2] {
        #[cfg(target_arch = "nvptx64")]
        {
            let (a, b): (u32, u32);
            // SAFETY: within the array and aligned by this function's contract.
            unsafe {
                core::arch::asm!(
                    "ld.shared.v2.b32 {{{}, {}}}, [{}];",
                    out(reg32) a, out(reg32) b, in(reg32) self.element_address(index),
                    options(readonly, nostack)
                );
            }
            [a, b]
        }
        #[cfg(not(target_arch = "nvptx64"))]
        {
            let _ = self.element_address(index);
            crate::device_only()
        }
    }

    /// Writes words `index` and `index + 1` in one access.
    ///
    /// # Safety
    /// - As for [`Shared::set`], and the first word is 8-byte aligned.
    #[inline(always)]
    pub unsafe fn set_two(self, index: u32, words: [u32; 2]) {
        #[cfg(target_arch = "nvptx64")]
        // SAFETY: within the array and aligned by this function's contract.
        unsafe {
            core::arch::asm!(
                "st.shared.v2.b32 [{}], {{{}, {}}};",
                in(reg32) self.element_address(index), in(reg32) words[0], in(reg32) words[1],
                options(nostack)
            );
        }
        #[cfg(not(target_arch = "nvptx64"))]
        {
            let _ = (self.element_address(index), words);
            crate::device_only()
        }
    }

    /// Writes words `index` to `index + 3` in one access.
    ///
    /// # Safety
    /// - As for [`Shared::set`], and the first word is 16-byte aligned.
    #[inline(always)]
    pub unsafe fn set_four(self, index: u32, words: [u32; 4]) {
        #[cfg(target_arch = "nvptx64")]
        // SAFETY: within the array and aligned by this function's contract.
        unsafe {
            core::arch::asm!(
                "st.shared.v4.b32 [{}], {{{}, {}, {}, {}}};",
                in(reg32) self.element_address(index),
                in(reg32) words[0], in(reg32) words[1], in(reg32) words[2], in(reg32) words[3],
                options(nostack)
            );
        }
        #[cfg(not(target_arch = "nvptx64"))]
        {
            let _ = (self.element_address(index), words);
            crate::device_only()
        }
    }
}

impl Shared<f32> {
    /// Elements `index` to `index + 3` in one access.
    ///
    /// # Safety
    /// - As for [`Shared::get`], and the first element is 16-byte aligned.
    #[inline(always)]
    pub unsafe fn get_four(self, index: u32) -> [f32; 4] {
        // SAFETY: the same words, by this function's contract.
        unsafe { self.cast::<u32>().get_four(index) }.map(f32::from_bits)
    }

    /// Writes elements `index` to `index + 3` in one access.
    ///
    /// # Safety
    /// - As for [`Shared::set`], and the first element is 16-byte aligned.
    #[inline(always)]
    pub unsafe fn set_four(self, index: u32, values: [f32; 4]) {
        // SAFETY: the same words, by this function's contract.
        unsafe { self.cast::<u32>().set_four(index, values.map(f32::to_bits)) }
    }
}
