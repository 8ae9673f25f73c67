//! Typed device memory, returned to the pool when dropped.

use crate::{
    Device, In, Kind, Out,
    pool::{LINE, Line},
};
use std::{marker::PhantomData, ops::Range};

/// Element types of buffers: plain data.
pub trait Element: bytemuck::Pod + Send + Sync {}
impl<T: bytemuck::Pod + Send + Sync> Element for T {}

/// `len` elements on a device.
pub struct Buffer<T: Element = f32> {
    lines: Vec<Line>,
    len: usize,
    device: Device,
    element: PhantomData<T>,
}

impl<T: Element> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer<{}>[{}] on {:?}", std::any::type_name::<T>(), self.len, self.device)
    }
}

impl<T: Element> Buffer<T> {
    pub(crate) fn new(device: &Device, len: usize) -> Self {
        let lines = match device.0.kind {
            Kind::Cpu => device.0.pool.lock().expect("pool lock").take(Self::lines_for(len)),
            Kind::Meta => Vec::new(),
        };
        device.count_alloc(len * size_of::<T>());
        let mut b = Buffer { lines, len, device: device.clone(), element: PhantomData };
        if cfg!(debug_assertions) {
            bytemuck::cast_slice_mut::<Line, u8>(&mut b.lines).fill(0xff);
        }
        b
    }

    fn lines_for(len: usize) -> usize {
        (len * size_of::<T>()).div_ceil(LINE)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device that holds the buffer.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// As a kernel input.
    #[inline]
    pub fn arg(&self) -> In<'_, T> {
        self.range(0..self.len)
    }

    /// Part of the buffer as a kernel input.
    #[inline]
    pub fn range(&self, r: Range<usize>) -> In<'_, T> {
        match self.device.0.kind {
            Kind::Cpu => In::Host(&self.host()[r]),
            Kind::Meta => In::Meta(r.len()),
        }
    }

    /// As a kernel output.
    #[inline]
    pub fn arg_mut(&mut self) -> Out<'_, T> {
        self.range_mut(0..self.len)
    }

    /// Part of the buffer as a kernel output.
    #[inline]
    pub fn range_mut(&mut self, r: Range<usize>) -> Out<'_, T> {
        match self.device.0.kind {
            Kind::Cpu => Out::Host(&mut self.host_mut()[r]),
            Kind::Meta => Out::Meta(r.len()),
        }
    }

    fn host(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    fn host_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }

    /// A copy of the elements on the host; zeros on a dry-run device.
    pub fn to_vec(&self) -> Vec<T> {
        match self.device.0.kind {
            Kind::Cpu => self.host().to_vec(),
            Kind::Meta => vec![T::zeroed(); self.len],
        }
    }

    /// Calls `f` with the elements where they are on the host; not called on a dry-run device.
    pub fn read<R>(&self, f: impl FnOnce(&[T]) -> R) -> Option<R> {
        match self.device.0.kind {
            Kind::Cpu => Some(f(self.host())),
            Kind::Meta => None,
        }
    }

    /// Overwrites the elements with `values`, which must be as long.
    pub fn write(&mut self, values: &[T]) {
        assert_eq!(values.len(), self.len, "write: length");
        if self.device.0.kind == Kind::Cpu {
            self.host_mut().copy_from_slice(values);
        }
    }

    /// Sets every element.
    pub fn fill(&mut self, value: T) {
        if self.device.0.kind == Kind::Cpu {
            self.host_mut().fill(value);
        }
    }
}

impl<T: Element> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut b = Buffer::new(&self.device, self.len);
        if self.device.0.kind == Kind::Cpu {
            b.host_mut().copy_from_slice(self.host());
        }
        b
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.device.count_free(self.len * size_of::<T>());
        if !self.lines.is_empty() {
            let lines = std::mem::take(&mut self.lines);
            self.device.0.pool.lock().expect("pool lock").give(lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_counts_live_bytes_exactly_on_both_devices() {
        for device in [Device::cpu(), Device::meta()] {
            let a = device.zeros::<f32>(1000);
            {
                let _b = device.alloc::<i8>(501);
                assert_eq!(device.live_bytes(), 4501);
            }
            drop(a);
            assert_eq!((device.live_bytes(), device.peak_bytes()), (0, 4501));
            device.reset_peak();
            assert_eq!(device.peak_bytes(), 0);
        }
    }

    #[test]
    fn upload_and_read_back() {
        let device = Device::cpu();
        let b = device.upload(&[1.0f32, 2.0, 3.0]);
        assert_eq!(b.to_vec(), [1.0, 2.0, 3.0]);
        assert_eq!(b.range(1..3).host(), [2.0, 3.0]);
        assert_eq!(b.clone().to_vec(), b.to_vec());
        assert_eq!(Device::meta().upload(&[1.0f32]).to_vec(), [0.0]);
    }
}
