//! Launches captured once and replayed as one submission.

use super::{
    Gpu,
    driver::{DeviceError, Handle},
};
use crate::{Device, pool::Classes};
use std::{ptr, sync::Arc};

/// A captured sequence of launches and copies. Buffers that it uses must be alive at a replay, unless they were dropped
/// while it was captured: their memory belongs to the graph, which uses it again and again.
pub struct Graph {
    device: Device,
    handle: Handle,
    blocks: Vec<(usize, u64)>,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph({} blocks)", self.blocks.len())
    }
}

impl Gpu {
    fn capture(&self, work: impl FnOnce()) -> Result<(Handle, Vec<(usize, u64)>), DeviceError> {
        let driver = self.enter();
        // Fresh blocks and modules may be needed inside: neither is part of the graph.
        const RELAXED: i32 = 2;
        // SAFETY: the stream is ours and idle or in order; nobody captures it already (checked below).
        unsafe { driver.capture_begin(self.stream, RELAXED) }?;
        self.state().capture = Some(Classes::default());
        work();
        let blocks: Vec<_> = self.state().capture.take().unwrap_or_default().drain().collect();
        let (mut graph, mut exec) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: ends the capture begun above; the graph is only needed to make the executable one.
        let made = unsafe {
            driver.capture_end(self.stream, &mut graph).and_then(|()| {
                let made = driver.graph_instantiate(&mut exec, graph, 0);
                let _ = driver.graph_destroy(graph);
                made
            })
        };
        if let Err(e) = made {
            blocks.into_iter().for_each(|(class, at)| self.give(class, at));
            return Err(e);
        }
        Ok((exec, blocks))
    }
}

impl Device {
    /// Records what `work` submits instead of running it. None on a device without graphs (where `work` is not called).
    ///
    /// `work` must not read results or upload.
    ///
    /// # Errors
    /// When the driver cannot capture what `work` does.
    pub fn capture(&self, work: impl FnOnce()) -> Result<Option<Graph>, DeviceError> {
        let Some(gpu) = &self.0.gpu else { return Ok(None) };
        let (handle, blocks) = gpu.capture(work)?;
        Ok(Some(Graph { device: self.clone(), handle, blocks }))
    }
}

impl Graph {
    /// Submits the captured work again, after all work before it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn replay(&self) -> Result<(), DeviceError> {
        let gpu = self.device.0.gpu.as_ref().expect("graphs come from a CUDA device");
        // SAFETY: the executable graph is ours.
        unsafe { gpu.enter().graph_launch(self.handle, gpu.stream) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let gpu: &Arc<Gpu> = self.device.0.gpu.as_ref().expect("graphs come from a CUDA device");
        // SAFETY: replays in flight finish first.
        unsafe {
            let _ = gpu.wait();
            let _ = gpu.enter().graph_exec_destroy(self.handle);
        }
        for (class, at) in self.blocks.drain(..) {
            gpu.give(class, at);
        }
    }
}
