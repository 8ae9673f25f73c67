//! This workspace's own client: buffers, kernels, errors and graphs of `device` on the stand-in.
mod common;

use common::client;
use device::{Device, DeviceError};
use elementwise::{Add, AddArgs};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn add(device: &Device, x: &device::Buffer, y: &mut device::Buffer) {
    device.run(&Add { len: x.len() }, AddArgs { x: x.arg(), y: y.arg_mut() });
}

#[test]
fn buffers_and_kernels() {
    client("buffers_and_kernels", &[("FERROTUNE_VM_MEMORY", "64M")], || {
        let device = Device::cuda(0).unwrap();
        assert_eq!(
            (device.name(), device.description().as_str()),
            ("cuda", "NVIDIA GeForce RTX 3090 (Ferrotune PTX VM)")
        );
        // More than one chunk of staging memory, and no multiple of it.
        let long: Vec<f32> = (0..3_000_001).map(|i| i as f32).collect();
        let x = device.upload(&long);
        let mut y = x.clone();
        add(&device, &x, &mut y);
        assert!(y.read(|y| y.iter().zip(&long).all(|(y, x)| *y == 2.0 * x)).unwrap());
        assert_eq!(device.live_bytes(), 2 * 4 * long.len());
        drop((x, y));
        let mut z = device.zeros::<f64>(5);
        z.fill(2.5);
        assert_eq!(z.to_vec(), [2.5; 5]);
        assert_eq!(device.upload(&[3u32, 4]).range(1..2).len(), 1);
        assert_eq!((device.alloc::<f32>(0).to_vec().len(), device.live_bytes()), (0, 40));
    });
}

#[test]
fn another_thread_may_use_the_device() {
    client("another_thread_may_use_the_device", &[("FERROTUNE_VM_MEMORY", "64M")], || {
        let device = Device::cuda(0).unwrap();
        let x = device.upload(&[1.0f32; 100]);
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut y = device.upload(&[2.0f32; 100]);
                add(&device, &x, &mut y);
                assert_eq!(y.to_vec(), [3.0; 100]);
            });
        });
    });
}

#[test]
fn a_full_device_says_how_full() {
    client("a_full_device_says_how_full", &[("FERROTUNE_VM_MEMORY", "64M")], || {
        let device = Device::cuda(0).unwrap();
        // Cached blocks make room first.
        drop(device.alloc::<f32>(8 << 20));
        let held = device.alloc::<f32>(9 << 20);
        let refused = catch_unwind(AssertUnwindSafe(|| device.alloc::<f32>(9 << 20))).unwrap_err();
        let said = refused.downcast::<DeviceError>().unwrap().to_string();
        assert!(said.contains("block of 36 MiB") && said.contains("smaller batch"), "{said}");
        assert_eq!((held.len(), device.live_bytes()), (9 << 20, 36 << 20));
    });
}

#[test]
fn a_graph_repeats_what_was_captured() {
    client("a_graph_repeats_what_was_captured", &[("FERROTUNE_VM_MEMORY", "64M")], || {
        let device = Device::cuda(0).unwrap();
        let x = device.upload(&[1.0f32; 1000]);
        let mut y = device.zeros::<f32>(1000);
        let graph = device.capture(|| {
            let mut copy = x.clone();
            add(&device, &x, &mut copy);
            add(&device, &copy, &mut y);
        });
        let graph = graph.unwrap().expect("the driver has graphs");
        assert_eq!(y.to_vec(), [0.0; 1000], "captured, not run");
        // What the graph took is not handed out again.
        let mut others: Vec<_> = (0..4).map(|_| device.zeros::<f32>(1000)).collect();
        for _ in 0..3 {
            graph.replay().unwrap();
            others.iter_mut().for_each(|o| o.fill(7.0));
        }
        assert_eq!(y.to_vec(), [6.0; 1000]);
    });
}

#[test]
fn no_driver_is_an_error() {
    let error = Device::cuda_from(std::path::Path::new("/no/such/libcuda.so"), 0).err().unwrap();
    assert!(error.to_string().contains("/no/such/libcuda.so"), "{error}");
    let device = Device::cpu();
    assert!(device.capture(|| unreachable!("nothing to capture")).unwrap().is_none());
}
