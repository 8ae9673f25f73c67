//! Memory that a graph allocates and frees.
//!
//! Its address is taken when the allocating node is made and stays until nobody has the node any more, so that every
//! launch finds it at the same place. In between, launches begin and end its contents: what an allocation left is gone
//! after the free, and a kernel that reads it then reads what nobody wrote.
use crate::{
    device::Device,
    handle::lock,
    op::Op,
    pool::Pool,
    result::{Code, Result},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// One allocation of a graph.
pub struct GraphMemory {
    /// Where it is.
    pub address: u64,
    /// Bytes asked for.
    pub bytes: usize,
    /// Whose memory it is.
    pub device: &'static Device,
    /// A launch allocated it, and neither that launch nor anybody after it has freed it, in the order of submission.
    outstanding: AtomicBool,
}

/// All of them by address.
static ALL: Mutex<BTreeMap<u64, Weak<GraphMemory>>> = Mutex::new(BTreeMap::new());

impl GraphMemory {
    /// Takes room on a device.
    pub fn new(device: &'static Device, bytes: usize, pool: &Arc<Pool>) -> Result<Arc<GraphMemory>> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE.because("an allocation of no bytes"));
        }
        let address = device.alloc(bytes, 0, Some(pool.clone()))?;
        let memory = Arc::new(GraphMemory { address, bytes, device, outstanding: AtomicBool::new(false) });
        lock(&ALL).insert(address, Arc::downgrade(&memory));
        Ok(memory)
    }

    /// The allocation that starts at an address.
    pub fn at(address: u64) -> Option<Arc<GraphMemory>> {
        lock(&ALL).get(&address).and_then(Weak::upgrade)
    }

    /// In stream order: its contents begin, or end.
    pub fn renew(&self) -> Result<()> {
        self.device.memory.renew(self.address).map_err(|e| Code::INVALID_VALUE.because(e.to_string()))
    }

    /// At submission: a client frees it outside of its graph.
    pub fn let_go(&self) -> Result<()> {
        match self.outstanding.swap(false, Ordering::AcqRel) {
            true => Ok(()),
            false => Err(Code::INVALID_VALUE.because("no launch has allocated this memory of a graph")),
        }
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        lock(&ALL).remove(&self.address);
        // A device that was reset has freed it already: fine.
        let _ = self.device.free(self.address);
    }
}

/// At submission of a launch: what it allocates must be free, unless the graph frees it by itself first; what it does
/// not free stays allocated.
pub fn submit<'a>(ops: impl Iterator<Item = &'a Op> + Clone, frees_first: bool) -> Result<()> {
    let allocated = ops.clone().filter_map(|op| match op {
        Op::Alloc(memory) => Some(memory),
        _ => None,
    });
    if !frees_first && allocated.clone().any(|m| m.outstanding.load(Ordering::Acquire)) {
        return Err(Code::INVALID_VALUE.because("what the graph allocated in its last launch is not freed"));
    }
    allocated.for_each(|m| m.outstanding.store(true, Ordering::Release));
    for op in ops {
        if let Op::GraphFree(memory) = op {
            memory.let_go()?;
        }
    }
    Ok(())
}
