//! Memory of a device.

use std::marker::PhantomData;
use std::rc::Rc;

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use cuda_std::Argument;

use crate::Error;
use crate::device::{Inner, done};

/// Elements in a device's memory, freed when dropped. A reference to it is an argument for a pointer parameter.
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

impl<T: Pod> Argument<*const T> for &Buffer<T> {
    fn slot(self) -> u64 {
        self.address
    }
}

impl<T: Pod> Argument<*mut T> for &Buffer<T> {
    fn slot(self) -> u64 {
        self.address
    }
}
