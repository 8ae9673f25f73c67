//! Stream capture.
use super::node;
use crate::{
    capture::{self, Mode},
    ffi::{In, Out, api},
    graph::{GRAPHS, Graph},
    handle::lock,
    result::{Code, Result},
    stream::{self, Stream},
};
use std::{cell::RefCell, collections::BTreeSet};

thread_local! {
    /// What the last `cuStreamGetCaptureInfo` of this thread pointed its client to.
    static FRONTIER: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

api! {
    ptsz fn cuStreamBeginCapture_v2(handle: usize, mode: i32) {
        let stream = stream::target(handle)?.1;
        capture::begin(&stream, Graph::create(), BTreeSet::new(), Mode::of(mode)?)
    }

    ptsz fn cuStreamBeginCaptureToGraph(
        handle: usize, graph: usize, dependencies: In<usize>, _data: In<u64>, count: usize, mode: i32,
    ) {
        let stream = stream::target(handle)?.1;
        let graph = GRAPHS.get(graph)?;
        let after = node::indices(&graph, dependencies, count)?;
        capture::begin(&stream, graph, after.into_iter().collect(), Mode::of(mode)?)
    }

    ptsz fn cuStreamEndCapture(handle: usize, graph: Out<usize>) {
        let graph = graph.required()?;
        graph.put(0);
        let stream = stream::target(handle)?.1;
        graph.set(capture::end(&stream)?.handle)
    }

    ptsz fn cuStreamIsCapturing(handle: usize, status: Out<i32>) {
        let status = status.required()?;
        status.set(status_of(&stream::target(handle)?.1))
    }

    ptsz fn cuStreamGetCaptureInfo(handle: usize, status: Out<i32>, id: Out<u64>) {
        let nowhere = 0;
        info(handle, status, id, Out::from_address(nowhere), Out::from_address(nowhere), Out::from_address(nowhere))
    }

    ptsz fn cuStreamGetCaptureInfo_v2(
        handle: usize, status: Out<i32>, id: Out<u64>, graph: Out<usize>, nodes: Out<usize>, count: Out<usize>,
    ) {
        info(handle, status, id, graph, nodes, count)
    }

    ptsz fn cuStreamGetCaptureInfo_v3(
        handle: usize, status: Out<i32>, id: Out<u64>, graph: Out<usize>, nodes: Out<usize>, edges: Out<usize>,
        count: Out<usize>,
    ) {
        edges.put(0);
        info(handle, status, id, graph, nodes, count)
    }

    ptsz fn cuStreamUpdateCaptureDependencies(handle: usize, nodes: In<usize>, count: usize, flags: u32) {
        update(handle, nodes, count, flags)
    }

    ptsz fn cuStreamUpdateCaptureDependencies_v2(
        handle: usize, nodes: In<usize>, _edges: In<u64>, count: usize, flags: u32,
    ) {
        update(handle, nodes, count, flags)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<i32>) {
        let new = Mode::of(mode.get()?)?;
        mode.set(capture::exchange_thread_mode(new) as i32)
    }
}

/// `CU_STREAM_CAPTURE_STATUS_*`.
fn status_of(stream: &Stream) -> i32 {
    match lock(&stream.capture).as_ref() {
        None => 0,
        Some(member) if member.capture.is_invalid() => 2,
        Some(_) => 1,
    }
}

fn info(
    handle: usize,
    status: Out<i32>,
    id: Out<u64>,
    graph: Out<usize>,
    nodes: Out<usize>,
    count: Out<usize>,
) -> Result<()> {
    let status = status.required()?;
    let stream = stream::target(handle)?.1;
    status.put(status_of(&stream));
    if let Some(member) = lock(&stream.capture).clone() {
        id.put(member.capture.id);
        graph.put(member.capture.graph.handle);
        let all = member.capture.graph.handles();
        FRONTIER.with_borrow_mut(|frontier| {
            *frontier = member.frontier.iter().map(|&i| all[i]).collect();
            nodes.put(frontier.as_ptr().expose_provenance());
            count.put(frontier.len());
        });
    }
    Ok(())
}

fn update(handle: usize, nodes: In<usize>, count: usize, flags: u32) -> Result<()> {
    let stream = stream::target(handle)?.1;
    let member =
        capture::of(&stream)?.ok_or_else(|| Code::ILLEGAL_STATE.because("the stream is not capturing"))?;
    let given = node::indices(&member.capture.graph, nodes, count)?;
    if let Some(member) = lock(&stream.capture).as_mut() {
        match flags {
            0 => {}
            1 => member.frontier.clear(),
            _ => return Err(Code::INVALID_VALUE.because("unknown flags")),
        }
        member.frontier.extend(given);
    }
    Ok(())
}
