//! The workspace's kernels in an engine built on cudarc, through their adapter.
mod common;

use common::client;
use cudarc::driver::CudaContext;
use elementwise::{Add, AddArgs, ColumnSum, ColumnSumArgs};
use kernel_cudarc::OnStream;

#[test]
fn an_engine_on_cudarc_runs_them() {
    client("an_engine_on_cudarc_runs_them", &[], || {
        let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
        let mut kernels = OnStream::new(&stream);
        let host: Vec<f32> = (0..1003).map(|i| i as f32).collect();
        let x = stream.clone_htod(&host).unwrap();
        let mut y = stream.clone_htod(&host).unwrap();
        let args = AddArgs { x: kernels.input(&x), y: kernels.output(&mut y) };
        kernels.run(&Add { len: host.len() }, args).unwrap();
        let sums = stream.clone_dtoh(&y).unwrap();
        assert!(sums.iter().zip(&host).all(|(s, x)| *s == 2.0 * x));

        // 17 rows of 59 columns.
        let mut column = stream.alloc_zeros::<f32>(59).unwrap();
        let args = ColumnSumArgs { x: kernels.input(&x), y: kernels.output(&mut column) };
        kernels.run(&ColumnSum { rows: 17, cols: 59 }, args).unwrap();
        let first: f32 = (0..17).map(|row| (row * 59) as f32).sum();
        assert_eq!(stream.clone_dtoh(&column).unwrap()[0], first);

        let wrong = AddArgs { x: kernels.input(&x), y: kernels.output(&mut column) };
        let said = kernels.run(&Add { len: host.len() }, wrong).unwrap_err().to_string();
        assert_eq!(said, "add: argument `y`: has 59 elements, expected 1003");
    });
}
