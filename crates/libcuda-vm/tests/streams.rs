//! Streams and events: order, overlap, the legacy default stream, callbacks. Gates make every schedule deterministic.
mod common;

use common::{client, raw::*};
use std::{ffi::c_void, ptr, sync::Mutex};

const NOT_READY: CUresult = CUresult::CUDA_ERROR_NOT_READY;
const LEGACY: CUstream = ptr::null_mut();

#[test]
fn one_stream_keeps_its_order() {
    client("one_stream_keeps_its_order", &[], || {
        context();
        let (f, value, s) = (kernel("affine"), words(&[1]), stream(1));
        let mut expected = 1u32;
        for i in 0..200 {
            assert_eq!(affine(f, value, 3, i, s), CUresult::CUDA_SUCCESS);
            expected = expected.wrapping_mul(3).wrapping_add(i);
        }
        ok!(cuStreamSynchronize(s));
        assert_eq!(read(value, 1), [expected]);
    });
}

#[test]
fn two_streams_overlap() {
    client("two_streams_overlap", &[], || {
        context();
        let (a, b, word) = (stream(1), stream(1), gate());
        // `a` waits for what `b`, submitted later, does: one after the other would never end.
        wait_for(word, a);
        ok!(cuStreamWriteValue32_v2(b, word as CUdeviceptr, 1, 0));
        ok!(cuStreamSynchronize(a));
        ok!(cuStreamSynchronize(b));
    });
}

#[test]
fn an_event_orders_two_streams() {
    client("an_event_orders_two_streams", &[], || {
        context();
        let (f, value, word) = (kernel("affine"), words(&[1]), gate());
        let (a, b, done) = (stream(1), stream(1), event());
        wait_for(word, a);
        affine(f, value, 3, 0, a);
        ok!(cuEventRecord(done, a));
        ok!(cuStreamWaitEvent(b, done, 0));
        affine(f, value, 1, 5, b);
        assert_eq!(cu!(cuEventQuery(done)), NOT_READY);
        assert_eq!(cu!(cuStreamQuery(b)), NOT_READY, "b waits for a");
        open(word);
        ok!(cuStreamSynchronize(b));
        ok!(cuEventQuery(done));
        assert_eq!(read(value, 1), [8], "1 * 3 + 5, not (1 + 5) * 3");
    });
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
    client("the_legacy_stream_waits_for_blocking_streams_and_they_for_it", &[], || {
        context();
        let (f, value, word) = (kernel("affine"), words(&[1]), gate());
        let (blocking, other, free) = (stream(0), stream(0), stream(1));
        wait_for(word, blocking);
        affine(f, value, 3, 0, blocking);
        affine(f, value, 1, 5, LEGACY);
        affine(f, value, 2, 0, other);
        assert_eq!(
            cu!(cuStreamQuery(other)),
            NOT_READY,
            "behind the legacy stream, which is behind the gate"
        );
        assert_eq!(cu!(cuStreamQuery(LEGACY)), NOT_READY);
        ok!(cuStreamQuery(free));
        open(word);
        ok!(cuCtxSynchronize());
        assert_eq!(read(value, 1), [16], "(1 * 3 + 5) * 2");
    });
}

#[test]
fn the_per_thread_stream_is_not_the_legacy_one() {
    client("the_per_thread_stream_is_not_the_legacy_one", &[], || {
        let context = context() as usize;
        let (f, value, word) = (kernel("affine") as usize, words(&[1]), gate());
        let per_thread = ptr::without_provenance_mut(2);
        wait_for(word, per_thread);
        // Another thread's own stream is another stream.
        let elsewhere = std::thread::spawn(move || {
            ok!(cuCtxSetCurrent(ptr::with_exposed_provenance_mut(context)));
            affine(ptr::with_exposed_provenance_mut(f), value, 1, 1, ptr::without_provenance_mut(2));
            cu!(cuStreamSynchronize(ptr::without_provenance_mut(2)))
        });
        assert_eq!(elsewhere.join().unwrap(), CUresult::CUDA_SUCCESS);
        assert_eq!(cu!(cuStreamQuery(per_thread)), NOT_READY);
        open(word);
        ok!(cuStreamSynchronize(per_thread));
        assert_eq!(read(value, 1), [2]);
    });
}

static CALLS: Mutex<Vec<(usize, CUresult)>> = Mutex::new(Vec::new());

unsafe extern "C" fn host_function(data: *mut c_void) {
    let mut inside = ptr::null_mut();
    CALLS.lock().unwrap().push((data.addr(), cu!(cuStreamCreate(&mut inside, 0))));
}

unsafe extern "C" fn callback(_stream: CUstream, status: CUresult, data: *mut c_void) {
    CALLS.lock().unwrap().push((data.addr(), status));
}

#[test]
fn host_functions_run_in_order_and_may_not_call_back() {
    client("host_functions_run_in_order_and_may_not_call_back", &[], || {
        context();
        let (s, word) = (stream(1), gate());
        wait_for(word, s);
        for i in 1..=3 {
            ok!(cuLaunchHostFunc(s, Some(host_function), ptr::without_provenance_mut(i)));
        }
        ok!(cuStreamAddCallback(s, Some(callback), ptr::without_provenance_mut(4), 0));
        assert!(CALLS.lock().unwrap().is_empty());
        open(word);
        ok!(cuStreamSynchronize(s));
        let refused = CUresult::CUDA_ERROR_NOT_PERMITTED;
        let expected = [(1, refused), (2, refused), (3, refused), (4, CUresult::CUDA_SUCCESS)];
        assert_eq!(*CALLS.lock().unwrap(), expected);
    });
}

#[test]
fn after_a_fault_callbacks_learn_of_it_and_host_functions_do_not_run() {
    client("after_a_fault_callbacks_learn_of_it_and_host_functions_do_not_run", &[], || {
        context();
        let (f, s, word) = (kernel("affine"), stream(1), gate());
        wait_for(word, s);
        affine(f, 0x1000, 1, 1, s);
        ok!(cuLaunchHostFunc(s, Some(host_function), ptr::without_provenance_mut(1)));
        ok!(cuStreamAddCallback(s, Some(callback), ptr::without_provenance_mut(2), 0));
        let done = event();
        ok!(cuEventRecord(done, s));
        open(word);
        let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
        assert_eq!(cu!(cuEventSynchronize(done)), illegal);
        assert_eq!(*CALLS.lock().unwrap(), [(2, illegal)]);
        let mut address = 0;
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, 4)), illegal);
        ok!(cuDevicePrimaryCtxReset_v2(0));
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, 4)), CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        context();
        ok!(cuMemAlloc_v2(&mut address, 4));
    });
}

#[test]
fn events_time_and_refuse() {
    client("events_time_and_refuse", &[], || {
        context();
        let (start, end, s, word) = (event(), event(), stream(1), gate());
        let mut ms = 0.0;
        let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
        assert_eq!(cu!(cuEventElapsedTime_v2(&mut ms, start, end)), invalid, "never recorded");
        ok!(cuEventRecord(start, s));
        wait_for(word, s);
        ok!(cuEventRecord(end, s));
        assert_eq!(cu!(cuEventElapsedTime_v2(&mut ms, start, end)), NOT_READY);
        // The start has passed, however busy the machine, before the five milliseconds begin.
        ok!(cuEventSynchronize(start));
        std::thread::sleep(std::time::Duration::from_millis(5));
        open(word);
        ok!(cuEventSynchronize(end));
        ok!(cuEventElapsedTime_v2(&mut ms, start, end));
        assert!(ms >= 5.0, "{ms} ms");
        let mut untimed = ptr::null_mut();
        ok!(cuEventCreate(&mut untimed, 2));
        ok!(cuEventRecord(untimed, s));
        assert_eq!(cu!(cuEventElapsedTime_v2(&mut ms, start, untimed)), invalid, "timing disabled");
        ok!(cuEventDestroy_v2(end));
        assert_eq!(cu!(cuEventQuery(end)), invalid, "a destroyed event");
        let garbage: CUstream = ptr::without_provenance_mut(0xdead_beef);
        assert_eq!(cu!(cuStreamSynchronize(garbage)), invalid, "a handle is looked up, never dereferenced");
    });
}
