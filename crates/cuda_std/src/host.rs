//! The host's view of a kernel: its name, its parameter types, and arguments that fit them.
//!
//! # A launch with other arguments does not compile
//!
//! ```
//! # use cuda_std::Kernel;
//! const SCALE: Kernel<(f32, u32)> = Kernel::new("scale", &["a", "n"]);
//! SCALE.pack((2.0f32, 7u32));
//! ```
//! ```compile_fail,E0277
//! # use cuda_std::Kernel;
//! const SCALE: Kernel<(f32, u32)> = Kernel::new("scale", &["a", "n"]);
//! SCALE.pack((7u32, 2.0f32)); // the types are the wrong way round
//! ```
//! ```compile_fail,E0277
//! # use cuda_std::Kernel;
//! const SCALE: Kernel<(f32, u32)> = Kernel::new("scale", &["a", "n"]);
//! SCALE.pack((2.0f32,)); // one is missing
//! ```

use std::{ffi::c_void, marker::PhantomData};

use crate::tensor_map::{Descriptor, TensorMap};

/// The most parameters that a kernel has in its PTX, where a slice is two.
const MAX_PARAMETERS: usize = 32;

/// A kernel's entry point: its name in the PTX and the types `P` (a tuple) of its parameters. Made by `#[kernel]`.
pub struct Kernel<P> {
    name: &'static str,
    parameters: &'static [&'static str],
    image: Option<Image>,
    types: PhantomData<fn(P)>,
}

/// The PTX that a kernel is in: what `cuda_builder::build_kernels` compiled the kernel's crate to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// The crate's name.
    pub crate_name: &'static str,
    /// The text.
    pub ptx: &'static str,
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Kernel<P> {}

impl<P> Kernel<P> {
    /// Used by `#[kernel]`: the entry's name and its parameters' names, in order.
    pub const fn new(name: &'static str, parameters: &'static [&'static str]) -> Self {
        Kernel { name, parameters, image: None, types: PhantomData }
    }

    /// Used by `#[kernel]` in a crate whose build script compiles its kernels.
    pub const fn in_image(self, image: Image) -> Self {
        Kernel { image: Some(image), ..self }
    }

    /// The image that the kernel is in, where its own crate's build script compiled it (`cuda_builder::build_kernels`).
    pub const fn image(&self) -> Option<Image> {
        self.image
    }

    /// Its parameters' names, in order.
    pub const fn parameters(&self) -> &'static [&'static str] {
        self.parameters
    }

    /// The entry's name in the PTX.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Lays the arguments out for a launch. That they have the parameters' types is checked by the compiler.
    pub fn pack<A: Arguments<P>>(&self, arguments: A) -> Packed {
        arguments.pack()
    }
}

/// Arguments laid out as `cuLaunchKernel` takes them: an 8-byte slot for each parameter of the PTX, little-endian, read by the
/// driver to the parameter's own size. A slice is two, its address and its number of elements. A tensor map is 128 bytes.
#[derive(Clone, Debug)]
pub struct Packed {
    slots: [u64; MAX_PARAMETERS],
    count: usize,
    /// Tensor maps, each with the number of its parameter, whose slot is not used.
    maps: Vec<(usize, Descriptor)>,
}

impl Packed {
    /// Adds a parameter of the PTX: its bits, zero-extended.
    pub fn push(&mut self, slot: u64) {
        self.slots[self.count] = slot;
        self.count += 1;
    }

    /// Adds a parameter that is a tensor map.
    pub fn push_map(&mut self, map: Descriptor) {
        self.maps.push((self.count, map));
        self.push(0);
    }

    /// The number of parameters.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The bytes of a parameter: 128 of a tensor map, else 8, the value zero-extended.
    pub fn bytes(&self, parameter: usize) -> &[u8] {
        match self.maps.iter().find(|(at, _)| *at == parameter) {
            Some((_, map)) => bytemuck::bytes_of(map),
            None => bytemuck::bytes_of(&self.slots[parameter]),
        }
    }

    /// Pointers to each parameter's bytes, valid while `self` is neither moved nor dropped.
    pub fn pointers(&mut self) -> ([*mut c_void; MAX_PARAMETERS], usize) {
        let mut pointers = [std::ptr::null_mut(); MAX_PARAMETERS];
        for (pointer, slot) in pointers.iter_mut().zip(&mut self.slots[..self.count]) {
            *pointer = std::ptr::from_mut(slot).cast();
        }
        for (parameter, map) in &mut self.maps {
            pointers[*parameter] = std::ptr::from_mut(map).cast();
        }
        (pointers, self.count)
    }
}

/// A type that a kernel may have as a parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be passed to a kernel",
    label = "a kernel's parameters are numbers of 8 to 64 bits, raw pointers, slices (`&[T]` to read, `*mut [T]` to write) and tensor maps"
)]
pub trait Parameter {
    /// How many parameters of the PTX it is.
    const SLOTS: usize;
    /// Whether it is a tensor map, which `#[kernel]` knows by its name only, and asks here whether it was right.
    #[doc(hidden)]
    const IS_TENSOR_MAP: bool = false;
}

/// A host value that may be passed for a kernel parameter of type `P`.
pub trait Argument<P: Parameter> {
    /// Adds [`Parameter::SLOTS`] slots.
    fn write(self, packed: &mut Packed);
}

macro_rules! scalar_parameter {
    ($($scalar:ty => $bits:expr),* $(,)?) => {$(
        impl Parameter for $scalar {
            const SLOTS: usize = 1;
        }
        impl Argument<$scalar> for $scalar {
            fn write(self, packed: &mut Packed) {
                let bits: fn($scalar) -> u64 = $bits;
                packed.push(bits(self));
            }
        }
    )*};
}

scalar_parameter! {
    u8 => u64::from,
    i8 => |value| u64::from(value.cast_unsigned()),
    u16 => u64::from,
    i16 => |value| u64::from(value.cast_unsigned()),
    u32 => u64::from,
    i32 => |value| u64::from(value.cast_unsigned()),
    u64 => |value| value,
    i64 => |value| value.cast_unsigned(),
    f64 => f64::to_bits,
    f32 => |value| u64::from(value.to_bits()),
    crate::F16 => |value| u64::from(value.to_bits()),
    crate::BF16 => |value| u64::from(value.to_bits()),
}

impl<T> Parameter for *const T {
    const SLOTS: usize = 1;
}

impl<T> Parameter for *mut T {
    const SLOTS: usize = 1;
}

// Address and number of elements: `#[kernel]` takes the two apart on the device.
impl<T: Copy> Parameter for &'static [T] {
    const SLOTS: usize = 2;
}

impl<T: Copy> Parameter for *const [T] {
    const SLOTS: usize = 2;
}

impl<T: Copy> Parameter for *mut [T] {
    const SLOTS: usize = 2;
}

impl Parameter for TensorMap {
    const SLOTS: usize = 1;
    const IS_TENSOR_MAP: bool = true;
}

impl Argument<TensorMap> for Descriptor {
    fn write(self, packed: &mut Packed) {
        packed.push_map(self);
    }
}

// An optional pointer is null when absent.
impl<T, A: Argument<*const T>> Argument<*const T> for Option<A> {
    fn write(self, packed: &mut Packed) {
        match self {
            Some(argument) => argument.write(packed),
            None => packed.push(0),
        }
    }
}

impl<T, A: Argument<*mut T>> Argument<*mut T> for Option<A> {
    fn write(self, packed: &mut Packed) {
        match self {
            Some(argument) => argument.write(packed),
            None => packed.push(0),
        }
    }
}

/// A tuple of host values that fits the parameter types `P`.
pub trait Arguments<P> {
    /// Lays them out for a launch.
    fn pack(self) -> Packed;
}

macro_rules! tuples {
    ($(($($parameter:ident $argument:ident),*))*) => {$(
        impl<$($parameter: Parameter, $argument: Argument<$parameter>),*> Arguments<($($parameter,)*)> for ($($argument,)*) {
            #[allow(non_snake_case)]
            #[allow(unused_mut, reason = "of no arguments")]
            fn pack(self) -> Packed {
                const {
                    let slots: usize = 0 $(+ $parameter::SLOTS)*;
                    assert!(slots <= MAX_PARAMETERS, "a kernel has at most 32 parameters, a slice being two");
                }
                let ($($argument,)*) = self;
                let mut packed = Packed { slots: [0; MAX_PARAMETERS], count: 0, maps: Vec::new() };
                $($argument.write(&mut packed);)*
                packed
            }
        }
    )*};
}

tuples! {
    ()
    (P1 A1)
    (P1 A1, P2 A2)
    (P1 A1, P2 A2, P3 A3)
    (P1 A1, P2 A2, P3 A3, P4 A4)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24, P25 A25)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24, P25 A25, P26 A26)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24, P25 A25, P26 A26, P27 A27)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24, P25 A25, P26 A26, P27 A27, P28 A28)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24, P25 A25, P26 A26, P27 A27, P28 A28, P29 A29)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24, P25 A25, P26 A26, P27 A27, P28 A28, P29 A29, P30 A30)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24, P25 A25, P26 A26, P27 A27, P28 A28, P29 A29, P30 A30, P31 A31)
    (P1 A1, P2 A2, P3 A3, P4 A4, P5 A5, P6 A6, P7 A7, P8 A8, P9 A9, P10 A10, P11 A11, P12 A12, P13 A13, P14 A14, P15 A15, P16 A16, P17 A17, P18 A18, P19 A19, P20 A20, P21 A21, P22 A22, P23 A23, P24 A24, P25 A25, P26 A26, P27 A27, P28 A28, P29 A29, P30 A30, P31 A31, P32 A32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_packed_in_order_by_their_bits() {
        const KERNEL: Kernel<(u32, f32, i32, u64)> = Kernel::new("k", &["a", "b", "c", "d"]);
        let packed = KERNEL.pack((7u32, 1.5f32, -1i32, u64::MAX));
        assert_eq!(packed.slots[..packed.count], [7, 0x3fc0_0000, 0xffff_ffff, u64::MAX]);
        assert_eq!(KERNEL.parameters(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_slice_is_an_address_and_a_length() {
        struct Part(u64, u64);
        impl Argument<&'static [f32]> for Part {
            fn write(self, packed: &mut Packed) {
                packed.push(self.0);
                packed.push(self.1);
            }
        }
        let packed = Kernel::<(u8, &'static [f32], i16)>::new("k", &["a", "b", "c"]).pack((1u8, Part(16, 5), -1i16));
        assert_eq!(packed.slots[..packed.count()], [1, 16, 5, 0xffff]);
        assert_eq!(packed.bytes(2), [5, 0, 0, 0, 0, 0, 0, 0]);
        let mut packed = packed;
        assert_eq!(packed.pointers().1, 4);
    }

    #[test]
    fn a_tensor_map_is_passed_whole() {
        let map = |first: u64| Descriptor(std::array::from_fn(|i| first + i as u64));
        let mut packed =
            Kernel::<(TensorMap, u32, TensorMap)>::new("k", &["a", "b", "c"]).pack((map(1), 7u32, map(50)));
        assert_eq!(packed.count(), 3);
        let (pointers, _) = packed.pointers();
        // SAFETY: a pointer leads to each parameter's bytes in `packed`, which is alive and not moved.
        let read = unsafe { (*pointers[0].cast::<Descriptor>(), *pointers[1].cast::<u32>(), *pointers[2].cast()) };
        assert_eq!(read, (map(1), 7, map(50)));
        assert_eq!(packed.bytes(2), bytemuck::bytes_of(&map(50)));
        assert_eq!(packed.bytes(1), [7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn pointers_lead_to_the_packed_values() {
        let mut packed = Kernel::<(u32, u32)>::new("k", &["a", "b"]).pack((3u32, 4u32));
        let (pointers, count) = packed.pointers();
        // SAFETY: the first `count` pointers lead into `packed`, which is alive and not moved.
        let read: Vec<u32> = pointers[..count].iter().map(|pointer| unsafe { *pointer.cast::<u32>() }).collect();
        assert_eq!(read, [3, 4]);
    }
}
