//! `printf!`: text from a kernel.
//!
//! CUDA's own `vprintf`: a device keeps what is printed and the host shows it when the kernel has ended, which also goes for
//! softcuda (`Device::set_output`). The first argument is a format in C's words; integers of up to 32 bits take `%d`, `%u` or `%x`,
//! those of 64 bits `%lld`, `%llu` or `%llx`, floats `%f`, `%e` or `%g`, pointers `%p`, and texts that end with a zero (`c"…"`) `%s`.
//!
//! ```
//! # use cuda_std::{kernel, printf, thread};
//! /// # Safety
//! /// None: it touches no memory.
//! #[kernel]
//! pub unsafe fn hello(scale: f32) {
//!     printf!(c"thread %d has %f\n", thread::thread_idx_x(), scale);
//! }
//! # fn main() {}
//! ```

use core::ffi::CStr;

/// A value that [`printf!`](crate::printf) takes.
pub trait Printed {
    /// What C passes for it.
    type Passed;
    /// The value as C passes it.
    fn passed(self) -> Self::Passed;
}

macro_rules! printed {
    ($($given:ty => $passed:ty, |$value:ident| $conversion:expr;)*) => {$(
        impl Printed for $given {
            type Passed = $passed;
            #[inline(always)]
            fn passed(self) -> $passed {
                let $value = self;
                $conversion
            }
        }
    )*};
}

printed! {
    u8 => u32, |value| value as u32;
    i8 => i32, |value| value as i32;
    u16 => u32, |value| value as u32;
    i16 => i32, |value| value as i32;
    u32 => u32, |value| value;
    i32 => i32, |value| value;
    u64 => u64, |value| value;
    i64 => i64, |value| value;
    usize => u64, |value| value as u64;
    bool => u32, |value| value as u32;
    f32 => f64, |value| value as f64;
    f64 => f64, |value| value;
    &CStr => *const core::ffi::c_char, |value| value.as_ptr();
}

impl<T> Printed for *const T {
    type Passed = *const T;
    #[inline(always)]
    fn passed(self) -> *const T {
        self
    }
}

impl<T> Printed for *mut T {
    type Passed = *mut T;
    #[inline(always)]
    fn passed(self) -> *mut T {
        self
    }
}

/// Up to eight arguments of a [`printf!`](crate::printf).
pub trait PrintedAll {
    /// Prints; how many arguments were taken, negative where it failed.
    fn print(self, format: &CStr) -> i32;
}

macro_rules! tuples {
    ($($arguments:ident($($name:ident)*);)*) => {$(
        /// As C lays them out.
        #[repr(C)]
        #[allow(dead_code, reason = "read by `vprintf`")]
        struct $arguments<$($name),*>($($name),*);

        impl<$($name: Printed),*> PrintedAll for ($($name,)*) {
            #[inline(always)]
            #[allow(non_snake_case, reason = "a value is named as its type")]
            fn print(self, format: &CStr) -> i32 {
                let ($($name,)*) = self;
                let arguments = $arguments($($name.passed()),*);
                print(format, (&raw const arguments).cast())
            }
        }
    )*};
}

tuples! {
    Arguments1(A);
    Arguments2(A B);
    Arguments3(A B C);
    Arguments4(A B C D);
    Arguments5(A B C D E);
    Arguments6(A B C D E F);
    Arguments7(A B C D E F G);
    Arguments8(A B C D E F G H);
}

impl PrintedAll for () {
    #[inline(always)]
    fn print(self, format: &CStr) -> i32 {
        print(format, core::ptr::null())
    }
}

#[inline(always)]
fn print(format: &CStr, arguments: *const core::ffi::c_void) -> i32 {
    #[cfg(target_arch = "nvptx64")]
    {
        unsafe extern "C" {
            fn vprintf(format: *const core::ffi::c_char, arguments: *const core::ffi::c_void) -> i32;
        }
        // SAFETY: the format ends with a zero, and the arguments are laid out as C has them.
        unsafe { vprintf(format.as_ptr(), arguments) }
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (format, arguments);
        crate::device_only()
    }
}

/// Prints from a kernel: `printf!(c"block %d: %f\n", block, value)`, with up to eight arguments; see [`print`](mod@crate::print).
#[macro_export]
macro_rules! printf {
    ($format:expr $(, $argument:expr)* $(,)?) => {{
        $crate::print::PrintedAll::print(($($argument,)*), $format);
    }};
}
