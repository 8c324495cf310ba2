//! Memory of a device.

use std::marker::PhantomData;
use std::ops::Range;
use std::rc::Rc;

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use cuda_std::tensor_map::Descriptor;
use cuda_std::{Argument, Packed};

use crate::device::{Inner, done};
use crate::{Error, Tiles};

/// Elements in a device's memory, freed when dropped. A reference to it is an argument for a pointer or slice parameter.
pub struct Buffer<T: Pod> {
    device: Rc<Inner>,
    address: u64,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    pub(crate) fn new(device: Rc<Inner>, len: usize) -> Result<Buffer<T>, Error> {
        let address = device.alloc(len * size_of::<T>())?;
        Ok(Buffer { device, address, len, elements: PhantomData })
    }

    /// The number of elements.
    #[allow(clippy::len_without_is_empty, reason = "no device gives out memory of no bytes")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Elements `range` of the buffer, as an argument.
    ///
    /// # Panics
    /// They are not all in the buffer.
    #[track_caller]
    pub fn part(&self, range: Range<usize>) -> Part<'_, T> {
        let fits = range.start <= range.end && range.end <= self.len;
        assert!(fits, "elements {} to {} of a buffer of {}", range.start, range.end, self.len);
        Part { buffer: self, start: range.start, len: range.len() }
    }

    #[track_caller]
    pub(crate) fn describe(&self, tiles: &Tiles, element: u32) -> Descriptor {
        let strides = tiles.byte_strides(size_of::<T>());
        done(self.device.tensor_map(element, self.address, tiles, &strides))
    }

    /// Copies values to the beginning of the buffer.
    ///
    /// # Panics
    /// There are more values than elements.
    #[track_caller]
    pub fn write(&self, values: &[T]) {
        assert!(values.len() <= self.len, "{} values do not fit a buffer of {}", values.len(), self.len);
        done(self.device.write(self.address, cast_slice(values)));
    }

    /// All elements.
    ///
    /// # Panics
    /// On softcuda, where one was never written; on a GPU, where a kernel wrote past the end.
    #[track_caller]
    pub fn read(&self) -> Vec<T> {
        let mut values = vec![T::zeroed(); self.len];
        done(self.device.read(self.address, cast_slice_mut(&mut values)));
        values
    }
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        // After a fault on a GPU nothing can be freed, and the test that caused it has said so.
        let _ = self.device.free(self.address);
    }
}

/// Some of a buffer's elements, one after another: an argument for a pointer or slice parameter.
#[derive(Clone, Copy)]
pub struct Part<'b, T: Pod> {
    buffer: &'b Buffer<T>,
    start: usize,
    len: usize,
}

impl<T: Pod> Part<'_, T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A buffer, or a part of one, passes its address to a pointer parameter, and its length besides to a slice parameter.
macro_rules! arguments {
    ($($argument:ty, |$value:ident| $address:expr, $len:expr;)*) => {$(
        impl<T: Pod> Argument<*const T> for $argument {
            fn write(self, packed: &mut Packed) {
                let $value = self;
                packed.push($address);
            }
        }

        impl<T: Pod> Argument<*mut T> for $argument {
            fn write(self, packed: &mut Packed) {
                let $value = self;
                packed.push($address);
            }
        }

        arguments!(@slice $argument, |$value| $address, $len, &'static [T]);
        arguments!(@slice $argument, |$value| $address, $len, *const [T]);
        arguments!(@slice $argument, |$value| $address, $len, *mut [T]);
    )*};
    (@slice $argument:ty, |$value:ident| $address:expr, $len:expr, $slice:ty) => {
        impl<T: Pod> Argument<$slice> for $argument {
            fn write(self, packed: &mut Packed) {
                let $value = self;
                packed.push($address);
                packed.push($len as u64);
            }
        }
    };
}

arguments! {
    &Buffer<T>, |buffer| buffer.address, buffer.len;
    Part<'_, T>, |part| part.buffer.address + (part.start * size_of::<T>()) as u64, part.len;
}
