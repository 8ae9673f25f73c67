//! Graphs: built node by node and captured, launched, updated.
mod common;

use common::{client, raw::*};
use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUgraphNode};
use std::{ffi::c_void, ptr};

/// Arguments of `affine` for a kernel node.
struct Affine {
    function: CUfunction,
    value: u64,
    factor: u32,
    term: u32,
    rounds: u32,
}

impl Affine {
    fn with<T>(&self, f: impl FnOnce(&sys::CUDA_KERNEL_NODE_PARAMS) -> T) -> T {
        let address = |p: *const u32| p.cast_mut().cast::<c_void>();
        let value = (&raw const self.value).cast();
        let mut args = [address(value), address(&self.factor), address(&self.term), address(&self.rounds)];
        f(&sys::CUDA_KERNEL_NODE_PARAMS {
            func: self.function,
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 1,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            kernelParams: args.as_mut_ptr(),
            extra: ptr::null_mut(),
            kern: ptr::null_mut(),
            ctx: ptr::null_mut(),
        })
    }

    fn add(&self, graph: CUgraph, after: &[CUgraphNode]) -> CUgraphNode {
        let mut node = ptr::null_mut();
        self.with(|p| ok!(cuGraphAddKernelNode_v2(&mut node, graph, after.as_ptr(), after.len(), p)));
        node
    }
}

fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut exec = ptr::null_mut();
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

fn launch(exec: CUgraphExec) {
    ok!(cuGraphLaunch(exec, ptr::null_mut()));
    ok!(cuStreamSynchronize(ptr::null_mut()));
}

#[test]
fn a_graph_built_by_hand_runs_in_the_order_of_its_edges() {
    client("a_graph_built_by_hand_runs_in_the_order_of_its_edges", &[], || {
        context();
        let (function, value) = (kernel("affine"), words(&[0, 0]));
        let step = |factor, term| Affine { function, value, factor, term, rounds: 0 };
        let mut graph = ptr::null_mut();
        ok!(cuGraphCreate(&mut graph, 0));
        // Added in the wrong order; the edges say: fill with 4, times 3, plus 5.
        let plus = step(1, 5).add(graph, &[]);
        let times = step(3, 0).add(graph, &[]);
        let mut fill = ptr::null_mut();
        let mut params = sys::CUDA_MEMSET_NODE_PARAMS {
            dst: value,
            pitch: 4,
            value: 4,
            elementSize: 4,
            width: 1,
            height: 1,
        };
        ok!(cuGraphAddMemsetNode(&mut fill, graph, ptr::null(), 0, &params, ptr::null_mut()));
        ok!(cuGraphAddDependencies(graph, [fill, times].as_ptr(), [times, plus].as_ptr(), 2));
        let exec = instantiate(graph);
        launch(exec);
        assert_eq!(read(value, 1), [17]);

        step(1, 6).with(|p| ok!(cuGraphExecKernelNodeSetParams_v2(exec, plus, p)));
        params.value = 10;
        ok!(cuGraphExecMemsetNodeSetParams(exec, fill, &params, ptr::null_mut()));
        launch(exec);
        assert_eq!(read(value, 1), [36], "10 * 3 + 6");
        ok!(cuGraphNodeSetEnabled(exec, times, 0));
        launch(exec);
        assert_eq!(read(value, 1), [16]);
        launch(instantiate(graph));
        assert_eq!(read(value, 1), [17], "the graph itself is as it was");

        let mut count = 0;
        ok!(cuGraphGetNodes(graph, ptr::null_mut(), &mut count));
        assert_eq!(count, 3);
        let mut got = step(0, 0).with(|p| *p);
        ok!(cuGraphKernelNodeGetParams_v2(times, &mut got));
        // SAFETY: the driver's array holds a pointer a parameter; the second is a u32.
        assert_eq!(unsafe { *(*got.kernelParams.add(1)).cast::<u32>() }, 3);

        ok!(cuGraphAddDependencies(graph, &plus, &fill, 1));
        let mut exec = ptr::null_mut();
        let cycle = cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        assert_eq!(cycle, CUresult::CUDA_ERROR_INVALID_VALUE, "a cycle");
        ok!(cuGraphDestroy(graph));
        let gone = cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
    });
}

fn begin(stream: CUstream) {
    ok!(cuStreamBeginCapture_v2(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
}

#[test]
fn a_capture_follows_events_into_other_streams() {
    client("a_capture_follows_events_into_other_streams", &[], || {
        context();
        let (f, x) = (kernel("affine"), words(&[1, 1]));
        let y = x + 4;
        let (main, side, fork, join) = (stream(1), stream(1), event(), event());
        begin(main);
        affine(f, x, 2, 0, main);
        ok!(cuEventRecord(fork, main));
        ok!(cuStreamWaitEvent(side, fork, 0));
        affine(f, y, 5, 0, side);
        affine(f, x, 1, 1, main);
        ok!(cuEventRecord(join, side));
        assert_eq!(cu!(cuEventQuery(join)), CUresult::CUDA_ERROR_CAPTURED_EVENT);
        ok!(cuStreamWaitEvent(main, join, 0));
        ok!(cuMemcpyDtoDAsync_v2(x, y, 4, main));
        let mut graph = ptr::null_mut();
        ok!(cuStreamEndCapture(main, &mut graph));
        let (mut nodes, mut edges) = (0, 0);
        ok!(cuGraphGetNodes(graph, ptr::null_mut(), &mut nodes));
        ok!(cuGraphGetEdges(graph, ptr::null_mut(), ptr::null_mut(), &mut edges));
        assert_eq!((nodes, edges), (4, 4), "a diamond");
        let exec = instantiate(graph);
        assert_eq!(read(x, 2), [1, 1]);
        launch(exec);
        launch(exec);
        assert_eq!(read(x, 2), [25, 25]);
    });
}

#[test]
fn a_spoilt_capture_says_why() {
    client("a_spoilt_capture_says_why", &[], || {
        context();
        let (f, value) = (kernel("affine"), words(&[1]));
        let (main, side, fork) = (stream(1), stream(1), event());
        let mut graph = ptr::null_mut();

        begin(main);
        ok!(cuEventRecord(fork, main));
        ok!(cuStreamWaitEvent(side, fork, 0));
        affine(f, value, 2, 0, side);
        assert_eq!(cu!(cuStreamEndCapture(side, &mut graph)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        assert_eq!(cu!(cuStreamEndCapture(main, &mut graph)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);

        begin(main);
        assert_eq!(cu!(cuStreamSynchronize(main)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let spoilt = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        assert_eq!(affine(f, value, 2, 0, main), spoilt);
        assert_eq!(cu!(cuStreamEndCapture(main, &mut graph)), spoilt);

        begin(main);
        let mut address = 0;
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, 4)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(cu!(cuStreamEndCapture(main, &mut graph)), spoilt);

        assert_eq!(affine(f, value, 2, 0, main), CUresult::CUDA_SUCCESS, "the stream works again");
        ok!(cuStreamSynchronize(main));
        assert_eq!(read(value, 1), [2]);
        let legacy = ptr::null_mut();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        assert_eq!(cu!(cuStreamBeginCapture_v2(legacy, mode)), unsupported);
    });
}

/// A node that allocates `bytes` bytes, and where.
fn alloc_node(graph: CUgraph, bytes: usize) -> (CUgraphNode, u64) {
    let mut params = sys::CUDA_MEM_ALLOC_NODE_PARAMS_v1 {
        poolProps: sys::CUmemPoolProps {
            allocType: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            handleTypes: sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
            location: sys::CUmemLocation {
                type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
                id: 0,
            },
            win32SecurityAttributes: ptr::null_mut(),
            maxSize: 0,
            usage: 0,
            reserved: [0; 54],
        },
        accessDescs: ptr::null(),
        accessDescCount: 0,
        bytesize: bytes,
        dptr: 0,
    };
    let mut node = ptr::null_mut();
    ok!(cuGraphAddMemAllocNode(&mut node, graph, ptr::null(), 0, &mut params));
    (node, params.dptr)
}

fn used_by_graphs() -> u64 {
    let mut used = 0u64;
    let current = sys::CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT;
    ok!(cuDeviceGetGraphMemAttribute(0, current, (&raw mut used).cast()));
    used
}

#[test]
fn a_graph_has_memory_of_its_own() {
    client("a_graph_has_memory_of_its_own", &[], || {
        context();
        let (function, out) = (kernel("affine"), words(&[0]));
        let mut graph = ptr::null_mut();
        ok!(cuGraphCreate(&mut graph, 0));
        // Allocate, fill with 4, times 3, count the launch, free.
        let (alloc, value) = alloc_node(graph, 64);
        let params = sys::CUDA_MEMSET_NODE_PARAMS {
            dst: value,
            pitch: 4,
            value: 4,
            elementSize: 4,
            width: 1,
            height: 1,
        };
        let (mut fill, mut point, mut free) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        ok!(cuGraphAddMemsetNode(&mut fill, graph, &alloc, 1, &params, ptr::null_mut()));
        let times = Affine { function, value, factor: 3, term: 0, rounds: 0 }.add(graph, &[fill]);
        let after = Affine { function, value: out, factor: 1, term: 1, rounds: 0 }.add(graph, &[times]);
        ok!(cuGraphAddEmptyNode(&mut point, graph, &after, 1));
        ok!(cuGraphAddMemFreeNode(&mut free, graph, &point, 1, value));
        assert_eq!(used_by_graphs(), 64);
        let exec = instantiate(graph);
        launch(exec);
        launch(exec);
        assert_eq!(read(out, 1), [2]);
        // What it cannot do.
        let (mut other, mut twice) = (ptr::null_mut(), ptr::null_mut());
        let refused = CUresult::CUDA_ERROR_NOT_SUPPORTED;
        assert_eq!(cu!(cuGraphClone(&mut other, graph)), refused);
        assert_eq!(cu!(cuGraphInstantiateWithFlags(&mut twice, graph, 0)), refused);
        assert_eq!(cu!(cuGraphDestroyNode(alloc)), refused);
        let mut got = 0;
        ok!(cuGraphMemFreeNodeGetParams(free, &mut got));
        assert_eq!(got, value);
        assert_eq!(cu!(cuMemFree_v2(value)), CUresult::CUDA_ERROR_INVALID_VALUE, "the graph has freed it");
        ok!(cuGraphExecDestroy(exec));
        ok!(cuGraphDestroy(graph));
        assert_eq!(used_by_graphs(), 0);
    });
}

#[test]
fn what_a_graph_leaves_allocated_outlives_its_launch() {
    client("what_a_graph_leaves_allocated_outlives_its_launch", &[], || {
        context();
        let (function, foreign) = (kernel("affine"), words(&[1]));
        let main = stream(1);
        begin(main);
        let mut value = 0;
        ok!(cuMemAllocAsync(&mut value, 16, main));
        ok!(cuMemsetD32Async(value, 20, 4, main));
        assert_eq!(affine(function, value, 2, 2, main), CUresult::CUDA_SUCCESS);
        let mut graph = ptr::null_mut();
        ok!(cuStreamEndCapture(main, &mut graph));
        let exec = instantiate(graph);
        launch(exec);
        assert_eq!(read(value, 2), [42, 20]);
        let again = cu!(cuGraphLaunch(exec, ptr::null_mut()));
        assert_eq!(again, CUresult::CUDA_ERROR_INVALID_VALUE, "not freed since the last launch");
        ok!(cuMemFreeAsync(value, main));
        ok!(cuStreamSynchronize(main));
        launch(exec);
        assert_eq!(read(value, 2), [42, 20]);
        ok!(cuMemFree_v2(value));
        // A capture frees its own memory and no other.
        begin(main);
        assert_eq!(cu!(cuMemFreeAsync(foreign, main)), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok!(cuStreamEndCapture(main, &mut graph));
        // After its free the contents are gone: a kernel that reads them is told so.
        launch(exec);
        ok!(cuMemFree_v2(value));
        assert_eq!(affine(function, value, 1, 0, main), CUresult::CUDA_SUCCESS);
        assert_eq!(cu!(cuStreamSynchronize(main)), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    });
}
