//! The `cust` crate as a client of the stand-in: it binds every driver symbol when the program starts.
use cust::{
    error::CudaError,
    event::{Event, EventFlags},
    launch,
    memory::{CopyDestination, DeviceBuffer, DevicePointer},
    module::Module,
    stream::{Stream, StreamFlags},
};
use std::error::Error;

const PTX: &str = include_str!("../../kernels.ptx");

fn main() -> Result<(), Box<dyn Error>> {
    let context = cust::quick_init()?;
    let device = cust::device::Device::get_device(0)?;
    let module = Module::from_ptx(PTX, &[])?;
    assert!(matches!(module.get_function("subtract"), Err(CudaError::NotFound)));
    assert!(matches!(Module::from_ptx("no ptx at all", &[]), Err(CudaError::InvalidPtx)));
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;

    let n = 1000u32;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let (dx, dy) = (DeviceBuffer::from_slice(&x)?, DeviceBuffer::from_slice(&x)?);
    // SAFETY: the kernel writes all of it before anyone reads.
    let out = unsafe { DeviceBuffer::<f32>::uninitialized(n as usize)? };
    let (start, end) = (Event::new(EventFlags::DEFAULT)?, Event::new(EventFlags::DEFAULT)?);
    let add = module.get_function("add")?;
    start.record(&stream)?;
    // SAFETY: the arguments are the kernel's: three buffers of n floats, and n.
    unsafe {
        launch!(add<<<n.div_ceil(256), 256, 0, stream>>>(
            dx.as_device_ptr(), dy.as_device_ptr(), out.as_device_ptr(), n
        ))?;
    }
    end.record(&stream)?;
    stream.synchronize()?;
    let mut sums = vec![0f32; n as usize];
    out.copy_to(&mut sums)?;
    assert!(sums.iter().zip(&x).all(|(s, x)| *s == 2.0 * x));
    let took = end.elapsed_time_f32(&start)?;
    assert!(took >= 0.0);

    let (blocks, threads) = add.suggested_launch_configuration(0, 0.into())?;
    assert!(blocks > 0 && threads > 0);
    // SAFETY: refused before anything runs.
    let refused = unsafe {
        launch!(add<<<1, 4096, 0, stream>>>(dx.as_device_ptr(), dy.as_device_ptr(), out.as_device_ptr(), n))
    };
    assert!(matches!(refused, Err(CudaError::InvalidValue)), "{refused:?}");
    let total = device.total_memory()?;
    // SAFETY: no such allocation comes about.
    let too_much = unsafe { DeviceBuffer::<u8>::uninitialized(total + 1) };
    assert!(matches!(too_much, Err(CudaError::OutOfMemory)));

    // A kernel of this workspace among the engine's own work, through its adapter.
    let mut kernels = kernel_cust::OnStream::new(&stream, 86);
    let mut y = DeviceBuffer::from_slice(&x)?;
    let args = elementwise::AddArgs { x: kernel_cust::input(&dx), y: kernel_cust::output(&mut y) };
    kernels.run(&elementwise::Add { len: x.len() }, args)?;
    let short = elementwise::AddArgs { x: kernel_cust::input(&dx), y: kernel_cust::output(&mut y) };
    let error = kernels.run(&elementwise::Add { len: 999 }, short).unwrap_err().to_string();
    assert!(error.contains("argument `x`: has 1000 elements, expected 999"), "{error}");
    stream.synchronize()?;
    y.copy_to(&mut sums)?;
    assert!(sums.iter().zip(&x).all(|(s, x)| *s == 2.0 * x));
    drop(kernels);

    let poke = module.get_function("poke")?;
    // SAFETY: the store goes nowhere, which is the point: the VM catches it.
    unsafe { launch!(poke<<<1, 1, 0, stream>>>(DevicePointer::<u32>::from_raw(0x1000)))? };
    assert!(matches!(stream.synchronize(), Err(CudaError::IllegalAddress)));
    assert!(matches!(DeviceBuffer::from_slice(&x), Err(CudaError::IllegalAddress)), "the error stays");
    println!("{}: {n} sums in {took:.3} ms through cust", device.name()?);
    // The broken context goes with the process: giving its parts back one by one would only report the error again.
    std::mem::forget((dx, dy, out, module, stream, start, end));
    drop(context);
    Ok(())
}
