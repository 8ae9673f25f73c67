//! A kernel of this workspace in a program that uses cudarc: `cargo xtask vm -- cargo run -p kernel-cudarc --example gelu`
//! runs it with no GPU.
use cudarc::driver::CudaContext;
use kernel_cudarc::OnStream;
use norm_gelu::{Act, ActForward, ActForwardArgs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = CudaContext::new(0)?.new_stream()?;
    let mut kernels = OnStream::new(&stream);
    let x: Vec<f32> = (-4..=4).map(|i| i as f32 / 2.0).collect();
    let (dx, mut dy) = (stream.clone_htod(&x)?, stream.alloc_zeros::<f32>(x.len())?);
    let gelu = ActForward { rows: 1, cols: x.len(), kind: Act::Gelu };
    let args = ActForwardArgs { x: kernels.input(&dx), y: kernels.output(&mut dy) };
    kernels.run(&gelu, args)?;
    for (x, y) in x.iter().zip(stream.clone_dtoh(&dy)?) {
        println!("gelu({x:4.1}) = {y:7.4}");
    }
    Ok(())
}
