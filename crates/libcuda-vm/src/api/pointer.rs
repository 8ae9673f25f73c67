//! What the driver says of an address.
use crate::{
    context,
    device::Device,
    driver,
    ffi::{In, Out, api},
    handle::lock,
    host::{self, Kind},
    place,
    result::{Code, Result},
};

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    /// `CU_MEM_LOCATION_TYPE_*`.
    pub kind: i32,
    /// The device's number, for a device.
    pub id: i32,
}

impl Location {
    /// The device that is meant.
    pub fn device(self) -> Result<&'static Device> {
        match self.kind {
            1 => driver::device(self.id),
            _ => Err(Code::NOT_SUPPORTED.because("memory at another location than a device")),
        }
    }
}

/// `CU_MEMORYTYPE_HOST`, `CU_MEMORYTYPE_DEVICE`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// What is known of an address.
struct Facts {
    memory_type: u32,
    context: usize,
    device: usize,
    start: u64,
    bytes: usize,
    managed: bool,
    pool: usize,
    id: u64,
}

api! {
    fn cuPointerGetAttribute(data: Out<u64>, attribute: i32, address: u64) {
        let data = data.required()?;
        context::current()?;
        let facts = facts(address)
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{address:#x} is not memory that the driver knows")))?;
        store(data, attribute, address, Some(&facts))
    }

    fn cuPointerGetAttributes(count: u32, attributes: In<i32>, data: In<usize>, address: u64) {
        context::current()?;
        let facts = facts(address);
        for i in 0..count as usize {
            store(Out::from_address(data.at(i)?).required()?, attributes.at(i)?, address, facts.as_ref())?;
        }
        Ok(())
    }

    fn cuPointerSetAttribute(_value: In<u8>, attribute: i32, address: u64) {
        context::current()?;
        // CU_POINTER_ATTRIBUTE_SYNC_MEMOPS: copies of that memory are synchronous anyway where it matters.
        match (attribute, facts(address)) {
            (6, Some(_)) => Ok(()),
            _ => Err(Code::INVALID_VALUE.because("nothing to set there")),
        }
    }
}

fn facts(address: u64) -> Option<Facts> {
    if let Some((device, start, bytes)) = place::device_of(address) {
        let allocation = device.allocation_at(address).map(|(_, a)| a);
        let pool = allocation.as_ref().and_then(|a| a.pool.as_ref()).map_or(0, |p| p.handle);
        // Variables of modules lie in no allocation: they belong to the primary context as far as anyone asks.
        let primary = || lock(&device.primary).context.as_ref().map_or(0, |c| c.handle);
        return Some(Facts {
            memory_type: DEVICE,
            context: allocation.as_ref().map_or_else(primary, |a| a.context),
            device: device.ordinal,
            start,
            bytes,
            managed: false,
            pool,
            id: allocation.map_or(0, |a| a.id),
        });
    }
    let (start, range) = host::find(address as usize)?;
    let managed = range.kind == Kind::Managed;
    Some(Facts {
        memory_type: if managed { DEVICE } else { HOST },
        context: range.context,
        device: range.device,
        start: start as u64,
        bytes: range.bytes,
        managed,
        pool: 0,
        id: start as u64,
    })
}

/// Stores attribute `CU_POINTER_ATTRIBUTE_*` in its own width; zeros for an address that nobody knows.
fn store(out: Out<u64>, attribute: i32, address: u64, facts: Option<&Facts>) -> Result<()> {
    let int = |value: u32| out.cast::<u32>().put(value);
    let flag = |value: bool| out.cast::<u8>().put(u8::from(value));
    let f = |pick: fn(&Facts) -> u64| facts.map_or(0, pick);
    let is_host = facts.is_some_and(|f| f.memory_type == HOST || f.managed);
    match attribute {
        1 => out.put(f(|f| f.context as u64)),
        2 => int(facts.map_or(0, |f| f.memory_type)),
        3 => out.put(if facts.is_some() { address } else { 0 }),
        4 if is_host || facts.is_none() => out.put(address),
        4 => return Err(Code::INVALID_VALUE.because("device memory has no host pointer")),
        6 => flag(false),
        7 => out.put(f(|f| f.id)),
        8 => flag(facts.is_some_and(|f| f.managed)),
        9 => out.cast::<i32>().put(facts.map_or(-2, |f| f.device as i32)),
        10 | 15 | 21 => flag(false),
        11 | 19 => out.put(f(|f| f.start)),
        12 | 18 => out.put(f(|f| f.bytes as u64)),
        13 => flag(facts.is_some()),
        14 => out.put(0),
        16 => int(if facts.is_some() { 3 } else { 0 }),
        17 => out.put(f(|f| f.pool as u64)),
        20 => out.put(f(|f| f.id)),
        _ => return Err(Code::INVALID_VALUE.because(format!("no pointer attribute {attribute}"))),
    }
    Ok(())
}
