//! The `cudarc` crate as a client: its safe interface from context to launch, and what it gets told of errors.
mod common;

use common::{PTX, client};
use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg,
        sys::{CUevent_flags, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode},
    },
    nvrtc::Ptx,
};
use std::sync::Arc;

fn open() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let context = CudaContext::new(0).expect("the stand-in has a device");
    let stream = context.default_stream();
    (context, stream)
}

fn load(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    let module = context.load_module(Ptx::from_src(PTX)).expect("the PTX is right");
    module.load_function(name).expect("the kernel is there")
}

fn code<T>(result: Result<T, DriverError>) -> Option<CUresult> {
    result.err().map(|e| e.0)
}

const ONE: LaunchConfig = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };

#[test]
fn allocates_copies_launches_times_and_frees() {
    client("allocates_copies_launches_times_and_frees", &[], || {
        let (context, stream) = open();
        assert_eq!(context.compute_capability(), Ok((8, 6)));
        assert!(context.name().unwrap().contains("RTX 3090"));
        assert_eq!(context.total_mem(), Ok(24 << 30));
        let (free, _) = context.mem_get_info().unwrap();

        let n = 1000u32;
        let (x, y): (Vec<f32>, Vec<f32>) = (0..n).map(|i| (i as f32, 0.5 * i as f32)).unzip();
        let (dx, dy) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&y).unwrap());
        let mut out = stream.alloc_zeros::<f32>(n as usize).unwrap();
        let add = load(&context, "add");
        let timing = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let start = stream.record_event(timing).unwrap();
        let mut launch = stream.launch_builder(&add);
        launch.arg(&dx).arg(&dy).arg(&mut out).arg(&n);
        // SAFETY: the arguments are the kernel's: three buffers of n floats, and n.
        unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.unwrap();
        let end = stream.record_event(timing).unwrap();
        let sums = stream.clone_dtoh(&out).unwrap();
        assert!(sums.iter().zip(&x).all(|(&s, &x)| s == 1.5 * x));
        end.synchronize().unwrap();
        assert!(start.elapsed_ms(&end).unwrap() > 0.0);

        drop((dx, dy, out));
        stream.synchronize().unwrap();
        let table = 64;
        assert!(
            context.mem_get_info().unwrap().0 + table > free - table,
            "everything is freed but the module"
        );
    });
}

#[test]
fn dynamic_shared_memory_and_occupancy() {
    client("dynamic_shared_memory_and_occupancy", &[], || {
        let (context, stream) = open();
        let reverse = load(&context, "reverse");
        let words: Vec<u32> = (0..256).collect();
        let mut data = stream.clone_htod(&words).unwrap();
        let mut launch = stream.launch_builder(&reverse);
        launch.arg(&mut data);
        let config = LaunchConfig { block_dim: (256, 1, 1), shared_mem_bytes: 1024, ..ONE };
        // SAFETY: the kernel reverses the 256 words of its buffer.
        unsafe { launch.launch(config) }.unwrap();
        let expected: Vec<u32> = words.iter().rev().copied().collect();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), expected);
        assert!(reverse.num_regs().unwrap() > 0);
        assert_eq!(reverse.occupancy_max_active_blocks_per_multiprocessor(256, 0, None), Ok(6));
        assert_eq!(reverse.occupancy_max_active_blocks_per_multiprocessor(256, 90 << 10, None), Ok(1));
    });
}

#[test]
fn errors_name_what_is_wrong() {
    client("errors_name_what_is_wrong", &[], || {
        let (context, stream) = open();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        assert_eq!(code(module.load_function("subtract")), Some(CUresult::CUDA_ERROR_NOT_FOUND));
        let broken = PTX.replace("add.rn.f32 %f3", "add.rn.f31 %f3");
        assert_eq!(code(context.load_module(Ptx::from_src(&broken))), Some(CUresult::CUDA_ERROR_INVALID_PTX));
        let newer = broken.replace(".version 7.8", ".version 99.0");
        assert_eq!(
            code(context.load_module(Ptx::from_src(newer))),
            Some(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
        );
        let other = PTX.replace(".target sm_80", ".target sm_90");
        assert_eq!(
            code(context.load_module(Ptx::from_src(other))),
            Some(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU)
        );
        let binary = Ptx::from_binary(b"\x7fELF\x02\x01\x01".to_vec());
        assert_eq!(code(context.load_module(binary)), Some(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU));

        let poke = module.load_function("poke").unwrap();
        let target = stream.alloc_zeros::<u32>(1).unwrap();
        let try_with = |config: LaunchConfig| {
            let mut launch = stream.launch_builder(&poke);
            launch.arg(&target);
            // SAFETY: the kernel stores into its one word.
            code(unsafe { launch.launch(config) })
        };
        let wrong = Some(CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(try_with(LaunchConfig { block_dim: (2048, 1, 1), ..ONE }), wrong);
        assert_eq!(try_with(LaunchConfig { block_dim: (1, 1, 65), ..ONE }), wrong);
        assert_eq!(try_with(LaunchConfig { grid_dim: (0, 1, 1), ..ONE }), wrong);
        assert_eq!(try_with(LaunchConfig { grid_dim: (1, 65536, 1), ..ONE }), wrong);
        assert_eq!(try_with(LaunchConfig { shared_mem_bytes: 49 << 10, ..ONE }), wrong);
        assert_eq!(try_with(ONE), None);
        assert_eq!(stream.clone_dtoh(&target), Ok(vec![1]));
        assert_eq!(code(CudaContext::new(1)), Some(CUresult::CUDA_ERROR_INVALID_DEVICE));
    });
}

#[test]
fn a_failed_launch_is_sticky_until_the_context_goes() {
    client("a_failed_launch_is_sticky_until_the_context_goes", &[], || {
        let illegal = Some(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        {
            let (context, stream) = open();
            let poke = load(&context, "poke");
            let nowhere = 0x1000u64;
            let mut launch = stream.launch_builder(&poke);
            launch.arg(&nowhere);
            // SAFETY: the store goes nowhere, which is what the test is about: the VM catches it.
            assert_eq!(code(unsafe { launch.launch(ONE) }), None, "a launch is asynchronous");
            assert_eq!(code(stream.synchronize()), illegal);
            assert_eq!(code(stream.alloc_zeros::<u8>(16)), illegal, "and from then on every call says so");
            assert_eq!(code(context.synchronize()), illegal);
        }
        let (_, stream) = open();
        let data = stream.clone_htod(&[1u8, 2, 3]).unwrap();
        assert_eq!(stream.clone_dtoh(&data), Ok(vec![1, 2, 3]), "a new context works");
    });
}

#[test]
fn a_small_device_runs_out_of_memory() {
    let settings = [("FERROTUNE_VM_MEMORY", "16M"), ("FERROTUNE_VM_DEVICE", "a100")];
    client("a_small_device_runs_out_of_memory", &settings, || {
        let (context, stream) = open();
        assert_eq!(context.compute_capability(), Ok((8, 0)));
        assert_eq!(context.total_mem(), Ok(16 << 20));
        let half = stream.alloc_zeros::<u8>(8 << 20).unwrap();
        assert_eq!(code(stream.alloc_zeros::<u8>(12 << 20)), Some(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        drop(half);
        assert!(
            stream.alloc_zeros::<u8>(12 << 20).is_ok(),
            "an error is not sticky, and freed memory is free"
        );
    });
}

#[test]
fn a_captured_graph_is_replayed() {
    client("a_captured_graph_is_replayed", &[], || {
        let (context, _) = open();
        // Tracking by events would tie the captured work to work outside of it.
        // SAFETY: one stream does everything, in order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let affine = load(&context, "affine");
        let value = stream.clone_htod(&[1u32]).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        for (factor, term) in [(3u32, 1u32), (2, 5)] {
            let mut launch = stream.launch_builder(&affine);
            launch.arg(&value).arg(&factor).arg(&term).arg(&0u32);
            // SAFETY: the kernel changes its one word.
            unsafe { launch.launch(ONE) }.unwrap();
        }
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a graph was captured");
        assert_eq!(stream.clone_dtoh(&value), Ok(vec![1]), "capturing runs nothing");
        let mut expected = 1u32;
        for _ in 0..3 {
            graph.launch().unwrap();
            expected = (expected * 3 + 1) * 2 + 5;
        }
        assert_eq!(stream.clone_dtoh(&value), Ok(vec![expected]));
    });
}

#[test]
fn counters_go_to_a_file() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("counters.json");
    let _ = std::fs::remove_file(&file);
    let settings = [("FERROTUNE_VM_COUNTERS", file.to_str().unwrap()), ("FERROTUNE_VM_SEED", "7")];
    client("counters_go_to_a_file", &settings, || {
        let (context, stream) = open();
        let affine = load(&context, "affine");
        let value = stream.clone_htod(&[1u32]).unwrap();
        for rounds in [0u32, 10] {
            let mut launch = stream.launch_builder(&affine);
            launch.arg(&value).arg(&2u32).arg(&0u32).arg(&rounds);
            // SAFETY: the kernel changes its one word.
            unsafe { launch.launch(ONE) }.unwrap();
        }
        assert_eq!(stream.clone_dtoh(&value), Ok(vec![4]));
    });
    if let Ok(text) = std::fs::read_to_string(&file) {
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let launches = all["launches"].as_array().unwrap();
        assert_eq!(launches.len(), 2);
        assert!(launches.iter().all(|l| l["kernel"] == "affine" && l["counters"]["warps"] == 1), "{text}");
    } else {
        assert!(std::env::var("LIBCUDA_VM_TEST").is_ok(), "the client wrote {}", file.display());
    }
}
