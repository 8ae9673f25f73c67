//! Graphs as a whole: making, copying, instantiating, launching.
use super::node::indices;
use crate::{
    context,
    ffi::{In, Out, api},
    graph::{EXECS, Exec, GRAPHS, Graph, NODES},
    op::Op,
    result::{Code, Result},
    stream, submit,
};
use std::ffi::c_char;

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Instantiate {
    flags: u64,
    upload_stream: usize,
    error_node: usize,
    result: i32,
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
pub struct UpdateInfo {
    result: i32,
    error_node: usize,
    error_from: usize,
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH`.
const DEVICE_LAUNCH: u64 = 4;

api! {
    fn cuGraphCreate(out: Out<usize>, flags: u32) {
        let out = out.required()?;
        match flags {
            0 => out.set(Graph::create().handle),
            _ => Err(Code::INVALID_VALUE.because("the flags are 0")),
        }
    }

    fn cuGraphDestroy(graph: usize) {
        GRAPHS.remove(graph).map(|_| ())
    }

    fn cuGraphClone(out: Out<usize>, graph: usize) {
        let out = out.required()?;
        let graph = GRAPHS.get(graph)?;
        graph.without_memory("be copied")?;
        out.set(graph.duplicate()?.handle)
    }

    fn cuGraphNodeFindInClone(out: Out<usize>, node: usize, clone: usize) {
        let out = out.required()?;
        let index = NODES.get(node)?.index;
        let handles = GRAPHS.get(clone)?.handles();
        out.set(*handles.get(index).ok_or_else(|| Code::INVALID_VALUE.because("not a clone of the node's graph"))?)
    }

    fn cuGraphGetNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) {
        list(GRAPHS.get(graph)?.nodes(), nodes, count)
    }

    fn cuGraphGetRootNodes(graph: usize, nodes: Out<usize>, count: Out<usize>) {
        list(GRAPHS.get(graph)?.roots(), nodes, count)
    }

    fn cuGraphGetEdges(graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>) {
        edges(graph, from, to, count)
    }

    fn cuGraphGetEdges_v2(graph: usize, from: Out<usize>, to: Out<usize>, data: Out<u64>, count: Out<usize>) {
        zeros(data, count)?;
        edges(graph, from, to, count)
    }

    fn cuGraphAddDependencies(graph: usize, from: In<usize>, to: In<usize>, count: usize) {
        set_edges(graph, from, to, count, true)
    }

    fn cuGraphAddDependencies_v2(graph: usize, from: In<usize>, to: In<usize>, _data: In<u64>, count: usize) {
        set_edges(graph, from, to, count, true)
    }

    fn cuGraphRemoveDependencies(graph: usize, from: In<usize>, to: In<usize>, count: usize) {
        set_edges(graph, from, to, count, false)
    }

    fn cuGraphRemoveDependencies_v2(graph: usize, from: In<usize>, to: In<usize>, _data: In<u64>, count: usize) {
        set_edges(graph, from, to, count, false)
    }

    fn cuGraphNodeGetDependencies(node: usize, nodes: Out<usize>, count: Out<usize>) {
        list(NODES.get(node)?.dependencies()?, nodes, count)
    }

    fn cuGraphNodeGetDependencies_v2(node: usize, nodes: Out<usize>, data: Out<u64>, count: Out<usize>) {
        zeros(data, count)?;
        list(NODES.get(node)?.dependencies()?, nodes, count)
    }

    fn cuGraphNodeGetDependentNodes(node: usize, nodes: Out<usize>, count: Out<usize>) {
        list(NODES.get(node)?.dependents()?, nodes, count)
    }

    fn cuGraphNodeGetDependentNodes_v2(node: usize, nodes: Out<usize>, data: Out<u64>, count: Out<usize>) {
        zeros(data, count)?;
        list(NODES.get(node)?.dependents()?, nodes, count)
    }

    fn cuGraphDestroyNode(node: usize) {
        NODES.remove(node)?.delete()
    }

    fn cuGraphInstantiate_v2(out: Out<usize>, graph: usize, error: Out<usize>, log: Out<c_char>, room: usize) {
        error.put(0);
        log.put_text("", room);
        instantiate(out, graph, 0)
    }

    fn cuGraphInstantiateWithFlags(out: Out<usize>, graph: usize, flags: u64) {
        instantiate(out, graph, flags)
    }

    ptsz fn cuGraphInstantiateWithParams(out: Out<usize>, graph: usize, params: Out<Instantiate>) {
        let given = params.get()?;
        let done = instantiate(out, graph, given.flags);
        let result = match &done {
            Ok(()) => 0,
            // CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE
            Err(failure) if failure.code == Code::INVALID_VALUE => 2,
            Err(_) => 1,
        };
        params.put(Instantiate { error_node: 0, result, ..given });
        done
    }

    fn cuGraphExecGetFlags(exec: usize, flags: Out<u64>) {
        let flags = flags.required()?;
        flags.set(EXECS.get(exec)?.flags)
    }

    ptsz fn cuGraphUpload(exec: usize, stream: usize) {
        EXECS.get(exec)?;
        stream::target(stream).map(|_| ())
    }

    ptsz fn cuGraphLaunch(exec: usize, stream: usize) {
        submit::to(stream, Op::Graph(EXECS.get(exec)?.frozen()?))
    }

    fn cuGraphExecDestroy(exec: usize) {
        EXECS.remove(exec).map(|_| ())
    }

    fn cuGraphExecUpdate(exec: usize, graph: usize, error: Out<usize>, result: Out<i32>) {
        error.put(0);
        let outcome = update(exec, graph)?;
        result.put(outcome);
        if outcome == 0 { Ok(()) } else { Err(Code::GRAPH_EXEC_UPDATE_FAILURE.into()) }
    }

    fn cuGraphExecUpdate_v2(exec: usize, graph: usize, info: Out<UpdateInfo>) {
        let result = update(exec, graph)?;
        info.put(UpdateInfo { result, error_node: 0, error_from: 0 });
        if result == 0 { Ok(()) } else { Err(Code::GRAPH_EXEC_UPDATE_FAILURE.into()) }
    }

    fn cuGraphNodeSetEnabled(exec: usize, node: usize, enabled: u32) {
        EXECS.get(exec)?.set_enabled(node, enabled != 0)
    }

    fn cuGraphNodeGetEnabled(exec: usize, node: usize, enabled: Out<u32>) {
        let enabled = enabled.required()?;
        enabled.set(u32::from(EXECS.get(exec)?.is_enabled(node)?))
    }
}

/// Stores a list the driver's way: its length alone, or as much of it as the client has room for, nulls after it.
fn list(all: Vec<usize>, out: Out<usize>, count: Out<usize>) -> Result<()> {
    let count = count.required()?;
    if out.is_null() {
        return count.set(all.len());
    }
    let room = count.get()?;
    for i in 0..room {
        out.put_at(i, all.get(i).copied().unwrap_or(0));
    }
    count.set(all.len().min(room))
}

/// Edge data: all edges are plain.
fn zeros(data: Out<u64>, count: Out<usize>) -> Result<()> {
    if !data.is_null() {
        (0..count.required()?.get()?).for_each(|i| data.put_at(i, 0));
    }
    Ok(())
}

fn edges(graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>) -> Result<()> {
    let count = count.required()?;
    let edges = GRAPHS.get(graph)?.edges();
    if from.is_null() != to.is_null() {
        return Err(Code::INVALID_VALUE.because("room for one end of the edges only"));
    }
    let room = if from.is_null() { edges.len() } else { count.get()? };
    list(edges.iter().map(|e| e.0).collect(), from, count)?;
    count.put(room);
    list(edges.iter().map(|e| e.1).collect(), to, count)
}

fn set_edges(graph: usize, from: In<usize>, to: In<usize>, count: usize, present: bool) -> Result<()> {
    let graph = GRAPHS.get(graph)?;
    let (from, to) = (indices(&graph, from, count)?, indices(&graph, to, count)?);
    let edges: Vec<(usize, usize)> = from.into_iter().zip(to).collect();
    graph.set_edges(&edges, present)
}

fn instantiate(out: Out<usize>, graph: usize, flags: u64) -> Result<()> {
    let out = out.required()?;
    let context = context::current()?;
    if flags & !0xf != 0 {
        return Err(Code::INVALID_VALUE.because("unknown flags"));
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Code::NOT_SUPPORTED.because("launching graphs from kernels"));
    }
    out.set(Exec::create(&context, &*GRAPHS.get(graph)?, flags)?.handle)
}

/// `CU_GRAPH_EXEC_UPDATE_*`.
fn update(exec: usize, graph: usize) -> Result<i32> {
    let outcome = EXECS.get(exec)?.update(&*GRAPHS.get(graph)?)?;
    Ok(outcome.err().map_or(0, |mismatch| mismatch as i32))
}
