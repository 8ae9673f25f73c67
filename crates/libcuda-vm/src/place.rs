//! Addresses: what a pointer from a client points to.
use crate::{
    device::Device,
    driver, host,
    result::{Code, Result},
};
use std::sync::Arc;

/// Where bytes lie.
#[derive(Clone)]
pub enum Place {
    /// Host memory at this address: the client's, page-locked or managed.
    Host(usize),
    /// Device memory.
    Device(u64, &'static Device),
    /// Bytes taken from the client at submission, from this offset on.
    Staged(Arc<[u8]>, usize),
}

impl Place {
    /// The place `bytes` further on.
    pub fn offset(&self, bytes: usize) -> Place {
        match self {
            Place::Host(a) => Place::Host(a.wrapping_add(bytes)),
            Place::Device(a, d) => Place::Device(a.wrapping_add(bytes as u64), d),
            Place::Staged(data, at) => Place::Staged(data.clone(), at + bytes),
        }
    }

    /// Whether it is host memory that the driver has not pinned: the client may reuse it after an asynchronous call.
    pub fn is_pageable(&self) -> bool {
        matches!(self, Place::Host(a) if host::find(*a).is_none())
    }
}

/// The device whose memory holds the address, with the start and size of the allocation.
pub fn device_of(address: u64) -> Option<(&'static Device, u64, usize)> {
    // A device's memory also knows the host memory that its kernels can reach.
    if host::find(address as usize).is_some() {
        return None;
    }
    let find = |d: &'static Device| d.memory.range_of(address).map(|(start, bytes)| (d, start, bytes));
    driver::devices().ok()?.iter().find_map(find)
}

/// A device pointer: device memory, or host memory that devices can reach, that holds `bytes` from there.
pub fn of_device(address: u64, bytes: usize) -> Result<Place> {
    let (place, start, room) = match device_of(address) {
        Some((device, start, room)) => (Place::Device(address, device), start, room),
        None => match host::find(address as usize) {
            Some((start, range)) => (Place::Host(address as usize), start as u64, range.bytes),
            None => {
                return Err(Code::INVALID_VALUE.because(format!("{address:#x} is in no live allocation")));
            }
        },
    };
    let before = (address - start) as usize;
    if before.checked_add(bytes).is_none_or(|end| end > room) {
        let why =
            format!("{bytes} bytes from {address:#x} pass the end of the allocation of {room} at {start:#x}");
        return Err(Code::INVALID_VALUE.because(why));
    }
    Ok(place)
}

/// A host pointer. With unified addressing it may be device memory after all.
pub fn of_host(address: usize, bytes: usize) -> Result<Place> {
    if address == 0 {
        return Err(Code::INVALID_VALUE.because("a host pointer is null"));
    }
    match device_of(address as u64) {
        Some(_) => of_device(address as u64, bytes),
        None => Ok(Place::Host(address)),
    }
}

/// Either: what `cuMemcpy` takes.
pub fn of_unified(address: u64, bytes: usize) -> Result<Place> {
    of_host(address as usize, bytes)
}
