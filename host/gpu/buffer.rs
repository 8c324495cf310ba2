//! Device memory: owned buffers, typed ranges of them, and pinned host memory to copy from and to.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
};

use bytemuck::Pod;
use cuda_std::{Argument, Packed};
use cust::memory::{DeviceBuffer, LockedBuffer};

use super::{Gpu, GpuError, check, driver_call};

/// What device memory can hold: plain values.
pub trait Element: Pod {}

impl<T: Pod> Element for T {}

/// A typed range of device memory.
pub struct Slice<T> {
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Slice<T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// Where the range is not within the slice.
    pub fn slice(&self, range: Range<usize>) -> SubSlice<'_, T> {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "elements {range:?} of a device slice of {}",
            self.len
        );
        let address = self.address + (range.start * size_of::<T>()) as u64;
        SubSlice { slice: Slice { address, len: range.len(), element: PhantomData }, owner: PhantomData }
    }

    /// The same range, unborrowed, for who answers for its being allocated.
    pub(super) fn copy(&self) -> Slice<T> {
        Slice { address: self.address, len: self.len, element: PhantomData }
    }

    /// The same bytes as elements of another type.
    ///
    /// # Panics
    /// Where the length in bytes is not a whole number of `U`, or the address is not aligned for it.
    pub fn cast<U: Element>(&self) -> SubSlice<'_, U> {
        let bytes = self.len * size_of::<T>();
        assert!(bytes.is_multiple_of(size_of::<U>()), "{bytes} bytes as elements of {}", size_of::<U>());
        assert!(self.address.is_multiple_of(align_of::<U>() as u64), "misaligned cast of a device slice");
        let len = bytes / size_of::<U>();
        SubSlice { slice: Slice { address: self.address, len, element: PhantomData }, owner: PhantomData }
    }
}

/// A part of a [`Slice`], which it borrows.
pub struct SubSlice<'a, T> {
    slice: Slice<T>,
    owner: PhantomData<&'a Slice<T>>,
}

impl<'a, T: Element> SubSlice<'a, T> {
    /// The elements of `range`, of the same owner: [`Slice::slice`].
    pub fn into_slice(self, range: Range<usize>) -> SubSlice<'a, T> {
        let SubSlice { slice: Slice { address, len, .. }, .. } = self.slice.slice(range);
        SubSlice { slice: Slice { address, len, element: PhantomData }, owner: PhantomData }
    }

    /// The same bytes as elements of another type, of the same owner: [`Slice::cast`].
    pub fn into_cast<U: Element>(self) -> SubSlice<'a, U> {
        let SubSlice { slice: Slice { address, len, .. }, .. } = self.slice.cast::<U>();
        SubSlice { slice: Slice { address, len, element: PhantomData }, owner: PhantomData }
    }
}

impl<T> Deref for SubSlice<'_, T> {
    type Target = Slice<T>;

    fn deref(&self) -> &Slice<T> {
        &self.slice
    }
}

/// An allocation of device memory, freed when dropped.
pub struct Buffer<T> {
    slice: Slice<T>,
    _memory: Option<DeviceBuffer<u8>>,
}

impl<T> Deref for Buffer<T> {
    type Target = Slice<T>;

    fn deref(&self) -> &Slice<T> {
        &self.slice
    }
}

// A kernel's pointer parameter takes a slice of its element type. Writing through a shared slice is sound because the
// host never dereferences device memory and the stream orders the launches.
impl<T> Argument<*const T> for &Slice<T> {
    fn write(self, packed: &mut Packed) {
        packed.push(self.address);
    }
}

impl<T> Argument<*mut T> for &Slice<T> {
    fn write(self, packed: &mut Packed) {
        packed.push(self.address);
    }
}

/// Host memory that the device copies from and to without a stop in between, and that kernels reach.
pub struct Pinned<T: Element>(LockedBuffer<Plain<T>>);

impl<T: Element> Pinned<T> {
    /// The memory as kernels see it, at the address that it has here.
    ///
    /// # Safety
    /// - What launches that are given the slice write is neither read nor written here before the device has run them.
    pub unsafe fn on_device(&self) -> SubSlice<'_, T> {
        let address = self.0.as_slice().as_ptr() as u64;
        SubSlice { slice: Slice { address, len: self.len(), element: PhantomData }, owner: PhantomData }
    }
}

/// `cust`'s mark of types that may be copied to the device, for every [`Element`].
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: an Element is plain old data without pointers.
unsafe impl<T: Element> cust::memory::DeviceCopy for Plain<T> {}

impl<T: Element> Deref for Pinned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let plain = self.0.as_slice();
        // SAFETY: Plain<T> is transparent over T.
        unsafe { std::slice::from_raw_parts(plain.as_ptr().cast(), plain.len()) }
    }
}

impl<T: Element> DerefMut for Pinned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let plain = self.0.as_mut_slice();
        // SAFETY: Plain<T> is transparent over T.
        unsafe { std::slice::from_raw_parts_mut(plain.as_mut_ptr().cast(), plain.len()) }
    }
}

impl Gpu {
    /// Allocates `len` elements with undefined content; `what` names their use in an error.
    pub fn alloc<T: Element>(&self, what: &str, len: usize) -> Result<Buffer<T>, GpuError> {
        let empty = Slice { address: 0, len: 0, element: PhantomData };
        if len == 0 {
            return Ok(Buffer { slice: empty, _memory: None });
        }
        let bytes = len * size_of::<T>();
        // SAFETY: nothing reads the memory before it is written; the sanitizer holds the kernels to that.
        let memory = match unsafe { DeviceBuffer::<u8>::uninitialized(bytes) } {
            Err(cust::error::CudaError::OutOfMemory) => {
                let (free, total) = self.memory()?;
                return Err(GpuError::OutOfMemory { what: what.to_owned(), needed: bytes, free, total });
            }
            result => driver_call(|| format!("allocating {bytes} bytes for {what}"), result)?,
        };
        let slice = Slice { address: memory.as_device_ptr().as_raw(), len, element: PhantomData };
        Ok(Buffer { slice, _memory: Some(memory) })
    }

    /// Allocates and fills with the host's values.
    pub fn upload<T: Element>(&self, what: &str, values: &[T]) -> Result<Buffer<T>, GpuError> {
        let buffer = self.alloc(what, values.len())?;
        self.write(&buffer, values)?;
        Ok(buffer)
    }

    /// Allocates pinned host memory.
    pub fn alloc_pinned<T: Element>(&self, what: &str, len: usize) -> Result<Pinned<T>, GpuError> {
        let zero = Plain(T::zeroed());
        Ok(Pinned(driver_call(|| format!("pinning host memory for {what}"), LockedBuffer::new(&zero, len))?))
    }

    /// Copies host values to the start of a device slice, and waits for it.
    pub fn write<T: Element>(&self, target: &Slice<T>, values: &[T]) -> Result<(), GpuError> {
        // SAFETY: `values` is alive until the synchronisation below.
        unsafe { self.enqueue_write(target, values)? };
        self.synchronise()
    }

    /// Enqueues a copy of host values to the start of a device slice.
    ///
    /// # Safety
    /// - `values` is neither dropped nor changed before the stream has run the copy.
    pub unsafe fn enqueue_write<T: Element>(&self, target: &Slice<T>, values: &[T]) -> Result<(), GpuError> {
        assert!(values.len() <= target.len, "{} values into a device slice of {}", values.len(), target.len);
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the target has room for the values; the caller keeps them.
        let result = unsafe {
            cust::sys::cuMemcpyHtoDAsync_v2(
                target.address,
                values.as_ptr().cast(),
                size_of_val(values),
                self.stream.as_inner(),
            )
        };
        check(|| "copying to the device".into(), result)
    }

    /// Copies a device slice to the host, after all that was enqueued before.
    pub fn read<T: Element>(&self, source: &Slice<T>) -> Result<Vec<T>, GpuError> {
        let mut values = vec![T::zeroed(); source.len];
        self.read_into(source, &mut values)?;
        Ok(values)
    }

    /// [`Self::read`] into memory of the caller's, of the slice's length.
    pub fn read_into<T: Element>(&self, source: &Slice<T>, values: &mut [T]) -> Result<(), GpuError> {
        assert_eq!(values.len(), source.len, "the host slice's length and the device slice's");
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: `values` has room, and is borrowed until the synchronisation below.
        let result = unsafe {
            cust::sys::cuMemcpyDtoHAsync_v2(
                values.as_mut_ptr().cast(),
                source.address,
                size_of_val(values),
                self.stream.as_inner(),
            )
        };
        check(|| "copying from the device".into(), result)?;
        self.synchronise()
    }

    /// Enqueues a copy from one slice to another, of the same length.
    pub fn copy(&self, source: &Slice<u8>, target: &Slice<u8>) -> Result<(), GpuError> {
        assert_eq!(source.len, target.len, "bytes to copy, and room for them");
        if source.is_empty() {
            return Ok(());
        }
        // SAFETY: both slices are that long.
        let result = unsafe {
            cust::sys::cuMemcpyDtoDAsync_v2(target.address, source.address, source.len, self.stream.as_inner())
        };
        check(|| "copying on the device".into(), result)
    }

    /// Enqueues setting every byte of a slice.
    pub fn fill<T: Element>(&self, target: &Slice<T>, byte: u8) -> Result<(), GpuError> {
        if target.is_empty() {
            return Ok(());
        }
        let bytes = target.len * size_of::<T>();
        // SAFETY: the slice is that long.
        let result = unsafe { cust::sys::cuMemsetD8Async(target.address, byte, bytes, self.stream.as_inner()) };
        check(|| "filling device memory".into(), result)
    }
}
