//! The tests of this family can fail: kernels broken on purpose, one line each, give other bits or fault on the VM.

use kernel_abi::{DevicePtr, Kernel, Launch, LaunchError, Launcher, Module, f16};
use kernel_test::{Gpu, compare::values};
use matmul::*;

/// Runs launches with one module's text replaced.
struct Broken<'a> {
    gpu: &'a mut Gpu,
    module: &'static Module,
}

impl Launcher for Broken<'_> {
    fn sm(&self) -> u32 {
        self.gpu.sm()
    }
    fn workspace(&mut self, bytes: usize) -> Result<DevicePtr, LaunchError> {
        self.gpu.workspace(bytes)
    }
    fn launch(&mut self, launch: Launch) -> Result<(), LaunchError> {
        assert_eq!(launch.module.name, self.module.name);
        self.gpu.launch(Launch { module: self.module, ..launch })
    }
}

/// The module with `from` replaced by `to` everywhere.
fn broken(module: &Module, from: &str, to: &str) -> &'static Module {
    assert!(module.ptx.contains(from), "{}.ptx has no `{from}`", module.name);
    let ptx = String::leak(module.ptx.replace(from, to));
    Box::leak(Box::new(Module { name: module.name, ptx }))
}

/// The result of a product by a module, or the VM's words.
fn matmul(module: Option<&'static Module>, tile: DenseTile, m: usize) -> Result<Vec<f32>, String> {
    let (n, k) = (70, 140);
    let mut gpu = Gpu::new();
    let (a, b) = (gpu.upload(&values(m * k, 1)), gpu.upload(&values(n * k, 2)));
    let mut c = gpu.upload(&values(m * n, 3));
    let matmul =
        Matmul { m, n, k, ta: false, tb: true, lda: k, ldb: k, ldc: n, alpha: 0.7, accumulate: true };
    let (kernel, args) = (Tiled { matmul, tile }, MatmulArgs { a: a.arg(), b: b.arg(), c: c.arg_mut() });
    match module {
        None => drop(gpu.run(&kernel, args)),
        Some(module) => kernel.ptx(args, &mut Broken { gpu: &mut gpu, module }).map_err(|e| e.to_string())?,
    }
    Ok(c.to_vec())
}

#[test]
fn broken_f32_kernels_are_noticed() {
    for (module, tile, m, from, to) in [
        // a wrong operand, in one of 64 fmas
        (&ptx::SGEMM, DenseTile::Small, 66, "fma.rn.f32 %c9, %a1, %b1, %c9", "fma.rn.f32 %c9, %a1, %b2, %c9"),
        // the order of the epilogue: add before alpha
        (&ptx::SGEMM, DenseTile::Low, 66, "add.rn.f32 %c5, %c5, %v0", "fma.rn.f32 %c5, %v0, %alpha, %c5"),
        // no barrier between copies and reads
        (&ptx::SGEMM, DenseTile::Small, 66, "bar.sync 0;", ""),
        // the copies are not waited for
        (&ptx::SGEMM, DenseTile::Large, 66, "cp.async.wait_all;", ""),
        // the last tile of k as if it were whole
        (&ptx::SGEMM, DenseTile::Small, 66, "setp.lt.u32 %p, %left, 16;", "setp.lt.u32 %p, %left, 8;"),
        (&ptx::THIN, DenseTile::Thin, 7, "fma.rn.f32 %c2, %y3, %x3, %c2", "fma.rn.f32 %c2, %y3, %x2, %c2"),
        (&ptx::THIN, DenseTile::Thin, 7, "cp.async.wait_group 1;", "cp.async.wait_group 2;"),
        (&ptx::THIN, DenseTile::Thin, 7, "setp.lt.s32 %p, %left, 64;", "setp.lt.s32 %p, %left, 8;"),
    ] {
        let good = matmul(None, tile, m).expect("the kernel as it is");
        let bad = matmul(Some(broken(module, from, to)), tile, m);
        assert!(bad != Ok(good), "`{from}` -> `{to}`");
    }
}

fn gemm(module: Option<&'static Module>) -> Result<Vec<f16>, String> {
    let g = Gemm { act: Activation::Gelu, parts: 1, ..Gemm::nt(72, 72, 264) };
    let mut gpu = Gpu::new();
    let half = |n, seed| values(n, seed).iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>();
    let (a, b) = (gpu.upload(&half(g.m * g.k, 1)), gpu.upload(&half(g.n * g.k, 2)));
    let mut c = gpu.alloc::<f16>(g.m * g.n);
    let args = GemmArgs { a: a.arg(), b: b.arg(), bias: None, residual: None, c: c.arg_mut() };
    match module {
        None => drop(gpu.run(&g.of::<f16>(), args)),
        Some(module) => {
            g.of::<f16>().ptx(args, &mut Broken { gpu: &mut gpu, module }).map_err(|e| e.to_string())?
        }
    }
    Ok(c.to_vec())
}

#[test]
fn broken_tensor_core_kernels_are_noticed() {
    let good = gemm(None).expect("the kernel as it is");
    for (from, to) in [
        ("cp.async.wait_group 1;", "cp.async.wait_group 2;"),
        ("bar.sync 0;", ""),
        ("setp.lt.s32 %short, %ahead, 64;", "setp.lt.s32 %short, %ahead, -64;"),
        ("max.f32 c, c, 0fC0800000;", "max.f32 c, c, 0fBF000000;"),
        ("st.shared.v2.f32 [%dump+32], {%c4, %c5};", "st.shared.v2.f32 [%dump+32], {%c5, %c4};"),
    ] {
        let bad = gemm(Some(broken(&ptx::GEMM_F16, from, to)));
        assert!(bad.as_ref() != Ok(&good), "`{from}` -> `{to}`");
    }
}
