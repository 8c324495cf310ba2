//! A block's shared memory.
//!
//! LLVM does not see that a pointer made from a shared symbol lies in shared memory and would emit generic accesses,
//! which the hardware resolves at a cost. A [`Shared`] handle therefore holds the 32-bit shared address and its
//! accesses are `ld.shared` and `st.shared`.

mod vectors;

use core::marker::PhantomData;

/// An array in shared memory. Copies of the handle refer to the same array.
pub struct Shared<T> {
    address: u32,
    element: PhantomData<*mut T>,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

/// Declares arrays in the block's shared memory, at module level: `shared_array! { partial_sums: [f32; 32]; }` makes a
/// function `partial_sums()` that gives the array's [`Shared<f32>`] handle. The name becomes a PTX symbol and must be
/// unique among the kernels; only kernels that use the array pay for it. It begins at a multiple of 16 bytes, or of as many as
/// `shared_array! { tile: [F16; 4096], align = 1024; }` says.
#[macro_export]
macro_rules! shared_array {
    ($($name:ident: [$element:ty; $length:expr] $(, align = $align:literal)?;)*) => {$(
        #[cfg(target_arch = "nvptx64")]
        core::arch::global_asm!(
            concat!(".shared .align {align} .b8 ", stringify!($name), "[{bytes}];"),
            align = const {
                let _align = 16;
                $(let _align = $align;)?
                _align
            },
            bytes = const $length * core::mem::size_of::<$element>()
        );
        #[cfg(not(target_arch = "nvptx64"))]
        const _: usize = $length;

        #[inline(always)]
        fn $name() -> $crate::shared::Shared<$element> {
            #[cfg(target_arch = "nvptx64")]
            let address = {
                let address: u32;
                // SAFETY: takes the address of the symbol declared above.
                unsafe {
                    core::arch::asm!(
                        concat!("mov.u32 {}, ", stringify!($name), ";"),
                        out(reg32) address,
                        options(pure, nomem, nostack)
                    )
                }
                address
            };
            #[cfg(not(target_arch = "nvptx64"))]
            let address = 0;
            // SAFETY: the symbol is an array of `$element`; the host never dereferences.
            unsafe { $crate::shared::Shared::at(address) }
        }
    )*};
}

macro_rules! access {
    ($($element:ty: $suffix:literal $register:ident;)*) => {$(
        impl Shared<$element> {
            /// Element `index`.
            ///
            /// # Safety
            /// - `index` is within the array, and a barrier separates this from other threads' writes to it.
            #[inline(always)]
            pub unsafe fn get(self, index: u32) -> $element {
                #[cfg(target_arch = "nvptx64")]
                {
                    let value: $element;
                    // SAFETY: within the array by this function's contract.
                    unsafe {
                        core::arch::asm!(
                            concat!("ld.shared.", $suffix, " {}, [{}];"),
                            out($register) value, in(reg32) self.element_address(index),
                            options(readonly, nostack)
                        );
                    }
                    value
                }
                #[cfg(not(target_arch = "nvptx64"))]
                {
                    let _ = self.element_address(index);
                    crate::device_only()
                }
            }

            /// Writes element `index`.
            ///
            /// # Safety
            /// - `index` is within the array, and a barrier separates this from other threads' accesses to it.
            #[inline(always)]
            pub unsafe fn set(self, index: u32, value: $element) {
                #[cfg(target_arch = "nvptx64")]
                // SAFETY: within the array by this function's contract.
                unsafe {
                    core::arch::asm!(
                        concat!("st.shared.", $suffix, " [{}], {};"),
                        in(reg32) self.element_address(index), in($register) value,
                        options(nostack)
                    );
                }
                #[cfg(not(target_arch = "nvptx64"))]
                {
                    let _ = (self.element_address(index), value);
                    crate::device_only()
                }
            }
        }
    )*};
}

access! {
    f32: "b32" reg32;
    u32: "b32" reg32;
    i32: "b32" reg32;
    u16: "b16" reg16;
    i16: "b16" reg16;
    u8: "b8" reg16;
    i8: "b8" reg16;
    u64: "b64" reg64;
    i64: "b64" reg64;
    f64: "b64" reg64;
}

/// The 16-bit floats, which are accessed as their bits.
macro_rules! access_halves {
    ($($element:ty)*) => {$(
        impl Shared<$element> {
            /// Element `index`.
            ///
            /// # Safety
            /// - As for `u16`.
            #[inline(always)]
            pub unsafe fn get(self, index: u32) -> $element {
                // SAFETY: the same memory, by this function's contract.
                <$element>::from_bits(unsafe { self.cast::<u16>().get(index) })
            }

            /// Writes element `index`.
            ///
            /// # Safety
            /// - As for `u16`.
            #[inline(always)]
            pub unsafe fn set(self, index: u32, value: $element) {
                // SAFETY: the same memory, by this function's contract.
                unsafe { self.cast::<u16>().set(index, value.to_bits()) }
            }
        }
    )*};
}

access_halves! { crate::F16 crate::BF16 }

#[cfg(target_arch = "nvptx64")]
core::arch::global_asm!(".extern .shared .align 16 .b8 dynamic_shared[];");

/// The block's dynamic shared memory, as many bytes as the launch asked for, from byte `offset`. 16-byte aligned at 0.
#[inline(always)]
pub fn dynamic<T>(offset: u32) -> Shared<T> {
    #[cfg(target_arch = "nvptx64")]
    let address = {
        let address: u32;
        // SAFETY: takes the address of the symbol declared above.
        unsafe {
            core::arch::asm!("mov.u32 {}, dynamic_shared;", out(reg32) address, options(pure, nomem, nostack));
        }
        address
    };
    #[cfg(not(target_arch = "nvptx64"))]
    let address = 0;
    // SAFETY: what is read and written through the handle is its users' promise.
    unsafe { Shared::at(address + offset) }
}

impl Shared<u32> {
    /// Adds to word `index` and returns what it was. Other threads may do so at the same time; in which order is not said.
    ///
    /// # Safety
    /// - `index` is within the array, and a barrier separates this from other threads' accesses to it of another kind.
    #[inline(always)]
    pub unsafe fn add(self, index: u32, value: u32) -> u32 {
        #[cfg(target_arch = "nvptx64")]
        {
            let before: u32;
            // SAFETY: within the array by this function's contract.
            unsafe {
                core::arch::asm!(
                    "atom.shared.add.u32 {}, [{}], {};",
                    out(reg32) before, in(reg32) self.element_address(index), in(reg32) value,
                    options(nostack)
                );
            }
            before
        }
        #[cfg(not(target_arch = "nvptx64"))]
        {
            let _ = (self.element_address(index), value);
            crate::device_only()
        }
    }
}

impl<T> Shared<T> {
    /// A handle on the array at a shared address; [`shared_array!`] makes these.
    ///
    /// # Safety
    /// - `address` is a shared-memory address of an array of `T`, aligned for it.
    #[inline(always)]
    pub unsafe fn at(address: u32) -> Self {
        Shared { address, element: PhantomData }
    }

    /// The same memory as an array of another type.
    ///
    /// # Safety
    /// - The array is aligned for `U`.
    #[inline(always)]
    pub unsafe fn cast<U>(self) -> Shared<U> {
        Shared { address: self.address, element: PhantomData }
    }

    /// The array's address in shared memory, for instructions that this crate does not have.
    #[inline(always)]
    pub fn address(self) -> u32 {
        self.address
    }

    #[inline(always)]
    pub(crate) fn element_address(self, index: u32) -> u32 {
        self.address + index * size_of::<T>() as u32
    }
}
