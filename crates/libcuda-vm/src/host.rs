//! Host memory that devices can reach: page-locked allocations, registered ranges, managed memory.
//!
//! With unified addressing all of it has one address for host and devices; managed memory is host memory here.
use crate::{
    context::Context,
    driver,
    handle::lock,
    result::{Code, Result},
};
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::BTreeMap,
    sync::Mutex,
};

/// How a range of host memory came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `cuMemHostAlloc`, `cuMemAllocHost`.
    Allocated,
    /// `cuMemHostRegister`: the client's own memory.
    Registered,
    /// `cuMemAllocManaged`.
    Managed,
}

/// A range of host memory.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// Its size.
    pub bytes: usize,
    /// How it came to be known.
    pub kind: Kind,
    /// The flags it was made with.
    pub flags: u32,
    /// The handle of the context that made it.
    pub context: usize,
    /// The number of that context's device.
    pub device: usize,
}

static RANGES: Mutex<BTreeMap<usize, Range>> = Mutex::new(BTreeMap::new());

const PAGE: usize = 4096;

/// The range around an address: start, and what it is.
pub fn find(address: usize) -> Option<(usize, Range)> {
    let ranges = lock(&RANGES);
    let (&start, &range) = ranges.range(..=address).next_back()?;
    (address - start < range.bytes).then_some((start, range))
}

/// Allocates zeroed host memory that all devices can reach.
pub fn alloc(context: &Context, bytes: usize, kind: Kind, flags: u32) -> Result<usize> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE.because("an allocation of no bytes"));
    }
    let layout = layout(bytes).ok_or(Code::OUT_OF_MEMORY)?;
    // SAFETY: the layout has a size of at least one byte.
    let address = unsafe { alloc_zeroed(layout) }.expose_provenance();
    if address == 0 {
        return Err(Code::OUT_OF_MEMORY.because(format!("the host has no {bytes} bytes left")));
    }
    let added = add(context, address, bytes, kind, flags);
    if added.is_err() {
        // SAFETY: allocated above with this layout, and known to nobody.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address), layout) };
    }
    added.map(|()| address)
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, PAGE).ok()
}

/// Makes host memory known to all devices.
pub fn add(context: &Context, address: usize, bytes: usize, kind: Kind, flags: u32) -> Result<()> {
    if address == 0 || bytes == 0 || address.checked_add(bytes).is_none() {
        return Err(Code::INVALID_VALUE.because("no host memory there"));
    }
    let mut ranges = lock(&RANGES);
    let before = ranges.range(..address + bytes).next_back();
    if before.is_some_and(|(&start, range)| start + range.bytes > address) {
        return Err(Code::HOST_MEMORY_ALREADY_REGISTERED.into());
    }
    for (i, device) in driver::devices()?.iter().enumerate() {
        // SAFETY: the client promises that the memory stays valid until it is unregistered or freed.
        let registered =
            unsafe { device.memory.register_host(std::ptr::with_exposed_provenance_mut(address), bytes) };
        if let Err(e) = registered {
            for device in &driver::devices()?[..i] {
                let _ = device.memory.unregister_host(address as u64);
            }
            return Err(Code::INVALID_VALUE.because(e.to_string()));
        }
    }
    ranges.insert(
        address,
        Range { bytes, kind, flags, context: context.handle, device: context.device.ordinal },
    );
    Ok(())
}

/// Forgets the range of one of these kinds that starts at `address`, and frees it unless it is the client's own.
pub fn remove(address: usize, kinds: &[Kind]) -> Result<()> {
    let mut ranges = lock(&RANGES);
    let range = *ranges.get(&address).filter(|r| kinds.contains(&r.kind)).ok_or_else(|| {
        let registered = kinds.contains(&Kind::Registered);
        let code = if registered { Code::HOST_MEMORY_NOT_REGISTERED } else { Code::INVALID_VALUE };
        code.because(format!("nothing to release starts at {address:#x}"))
    })?;
    ranges.remove(&address);
    for device in driver::devices()? {
        device
            .memory
            .unregister_host(address as u64)
            .map_err(|e| Code::INVALID_VALUE.because(e.to_string()))?;
    }
    if range.kind != Kind::Registered
        && let Some(layout) = layout(range.bytes)
    {
        // SAFETY: `alloc` made it with this layout, and the table held it until now: it is freed once.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address), layout) };
    }
    Ok(())
}

/// Forgets everything that a context made known.
pub fn free_all_of(context: usize) {
    let owned: Vec<(usize, Kind)> =
        lock(&RANGES).iter().filter(|(_, r)| r.context == context).map(|(&a, r)| (a, r.kind)).collect();
    for (address, kind) in owned {
        let _ = remove(address, &[kind]);
    }
}
