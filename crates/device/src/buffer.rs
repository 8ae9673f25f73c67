//! Typed device memory, returned to the pool when dropped.

use crate::{
    Device, In, Kind, Out, cuda, fail,
    ledger::Entry,
    pool::{LINE, Line},
};
use kernel_abi::DevicePtr;
use std::{marker::PhantomData, ops::Range};

/// Element types of buffers: plain data.
pub trait Element: bytemuck::Pod + Send + Sync {}
impl<T: bytemuck::Pod + Send + Sync> Element for T {}

enum Memory {
    Host(Vec<Line>),
    /// Size class and address.
    Cuda(usize, u64),
    Meta(Option<Entry>),
}

/// `len` elements on a device.
pub struct Buffer<T: Element = f32> {
    memory: Memory,
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
        let bytes = len * size_of::<T>();
        let memory = match device.0.kind {
            Kind::Cpu => Memory::Host(device.0.pool.lock().expect("pool lock").lines(bytes.div_ceil(LINE))),
            Kind::Cuda => {
                let (class, at) = device.gpu().take(bytes).unwrap_or_else(|e| fail(e));
                Memory::Cuda(class, at)
            }
            Kind::Meta => {
                Memory::Meta(Some(device.0.ledger.lock().expect("ledger lock").add(cuda::rounded(bytes))))
            }
        };
        device.count_alloc(bytes);
        let mut b = Buffer { memory, len, device: device.clone(), element: PhantomData };
        if let (Memory::Host(lines), true) = (&mut b.memory, cfg!(debug_assertions)) {
            bytemuck::cast_slice_mut::<Line, u8>(lines).fill(0xff);
        }
        b
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
        match &self.memory {
            Memory::Host(lines) => In::Host(&elements(lines, self.len)[r]),
            Memory::Cuda(_, at) => In::Device(address::<T>(*at, self.len, &r), r.len()),
            Memory::Meta(_) => In::Meta(r.len()),
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
        match &mut self.memory {
            Memory::Host(lines) => Out::Host(&mut elements_mut(lines, self.len)[r]),
            Memory::Cuda(_, at) => Out::Device(address::<T>(*at, self.len, &r), r.len()),
            Memory::Meta(_) => Out::Meta(r.len()),
        }
    }

    /// A copy of the elements on the host; zeros on a dry-run device.
    pub fn to_vec(&self) -> Vec<T> {
        match &self.memory {
            Memory::Host(lines) => elements(lines, self.len).to_vec(),
            Memory::Cuda(_, at) => {
                let mut out = vec![T::zeroed(); self.len];
                let done = self.device.gpu().download(*at, bytemuck::cast_slice_mut(&mut out));
                done.unwrap_or_else(|e| fail(e));
                out
            }
            Memory::Meta(_) => vec![T::zeroed(); self.len],
        }
    }

    /// Calls `f` with the elements; not called on a dry-run device.
    pub fn read<R>(&self, f: impl FnOnce(&[T]) -> R) -> Option<R> {
        match &self.memory {
            Memory::Host(lines) => Some(f(elements(lines, self.len))),
            Memory::Cuda(..) => Some(f(&self.to_vec())),
            Memory::Meta(_) => None,
        }
    }

    /// Calls `f` with the elements, for change; a GPU's travel to the host and back. Not called on a dry-run device.
    pub fn edit<R>(&mut self, f: impl FnOnce(&mut [T]) -> R) -> Option<R> {
        match &mut self.memory {
            Memory::Host(lines) => Some(f(elements_mut(lines, self.len))),
            Memory::Cuda(..) => {
                let mut values = self.to_vec();
                let result = f(&mut values);
                self.write(&values);
                Some(result)
            }
            Memory::Meta(_) => None,
        }
    }

    /// Overwrites the elements with `values`, which must be as long.
    pub fn write(&mut self, values: &[T]) {
        assert_eq!(values.len(), self.len, "write: length");
        match &mut self.memory {
            Memory::Host(lines) => elements_mut(lines, self.len).copy_from_slice(values),
            Memory::Cuda(_, at) => {
                let done = self.device.gpu().upload(*at, bytemuck::cast_slice(values));
                done.unwrap_or_else(|e| fail(e));
            }
            Memory::Meta(_) => {}
        }
    }

    /// Sets every element.
    pub fn fill(&mut self, value: T) {
        match &mut self.memory {
            Memory::Host(lines) => elements_mut(lines, self.len).fill(value),
            Memory::Cuda(_, at) => {
                let done = self.device.gpu().fill(*at, bytemuck::bytes_of(&value), self.len);
                done.unwrap_or_else(|e| fail(e));
            }
            Memory::Meta(_) => {}
        }
    }
}

fn address<T: Element>(at: u64, len: usize, r: &Range<usize>) -> DevicePtr {
    assert!(r.start <= r.end && r.end <= len, "range {r:?} of {len} elements");
    DevicePtr(at).offset(r.start * size_of::<T>())
}

fn elements<T: Element>(lines: &[Line], len: usize) -> &[T] {
    &bytemuck::cast_slice(lines)[..len]
}

fn elements_mut<T: Element>(lines: &mut [Line], len: usize) -> &mut [T] {
    &mut bytemuck::cast_slice_mut(lines)[..len]
}

impl<T: Element> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut b = Buffer::new(&self.device, self.len);
        match (&self.memory, &mut b.memory) {
            (Memory::Host(from), Memory::Host(to)) => {
                elements_mut::<T>(to, self.len).copy_from_slice(elements(from, self.len));
            }
            (Memory::Cuda(_, from), Memory::Cuda(_, to)) => {
                let done = self.device.gpu().copy(*to, *from, self.len * size_of::<T>());
                done.unwrap_or_else(|e| fail(e));
            }
            _ => {}
        }
        b
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.device.count_free(self.len * size_of::<T>());
        match std::mem::replace(&mut self.memory, Memory::Meta(None)) {
            Memory::Host(lines) if lines.is_empty() => {}
            Memory::Host(lines) => self.device.0.pool.lock().expect("pool lock").give(lines.len(), lines),
            Memory::Cuda(class, at) => self.device.gpu().give(class, at),
            Memory::Meta(Some(entry)) => self.device.0.ledger.lock().expect("ledger lock").remove(entry),
            Memory::Meta(None) => {}
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
        let mut c = b.clone();
        assert_eq!(c.edit(|v| std::mem::replace(&mut v[0], 5.0)), Some(1.0));
        assert_eq!((c.to_vec(), b.to_vec()), (vec![5.0, 2.0, 3.0], vec![1.0, 2.0, 3.0]));
        assert_eq!(Device::meta().upload(&[1.0f32]).to_vec(), [0.0]);
    }
}
