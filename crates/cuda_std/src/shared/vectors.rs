//! Four elements of shared memory in one access.

use super::Shared;

impl Shared<f32> {
    /// Elements `index` to `index + 3`.
    ///
    /// # Safety
    /// - As for [`Shared::get`], and the first element is 16-byte aligned.
    #[inline(always)]
    pub unsafe fn get_four(self, index: u32) -> [f32; 4] {
        #[cfg(target_arch = "nvptx64")]
        {
            let (a, b, c, d): (f32, f32, f32, f32);
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

    /// Writes elements `index` to `index + 3`.
    ///
    /// # Safety
    /// - As for [`Shared::set`], and the first element is 16-byte aligned.
    #[inline(always)]
    pub unsafe fn set_four(self, index: u32, values: [f32; 4]) {
        #[cfg(target_arch = "nvptx64")]
        // SAFETY: within the array and aligned by this function's contract.
        unsafe {
            core::arch::asm!(
                "st.shared.v4.b32 [{}], {{{}, {}, {}, {}}};",
                in(reg32) self.element_address(index),
                in(reg32) values[0], in(reg32) values[1], in(reg32) values[2], in(reg32) values[3],
                options(nostack)
            );
        }
        #[cfg(not(target_arch = "nvptx64"))]
        {
            let _ = (self.element_address(index), values);
            crate::device_only()
        }
    }
}
