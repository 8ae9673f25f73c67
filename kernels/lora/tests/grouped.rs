//! Rows under several adapters on the VM: the CPU twin's bits, and those of the plain kernel under each row's adapter.

use kernel_abi::Kernel;
use kernel_test::{Gpu, compare::*, every_way};
use lora::*;
use proptest::prelude::*;

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

struct Batch {
    kernel: GroupedLoraForward,
    x: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    scales: Vec<f32>,
    index: Vec<u32>,
    u: Vec<f32>,
    y: Vec<f32>,
}

fn batch(index: Vec<u32>, [n_in, n_out, rank, adapters]: [usize; 4], ldy: usize, col_offset: usize) -> Batch {
    let m = index.len();
    Batch {
        kernel: GroupedLoraForward { m, n_in, n_out, rank, adapters, ldy, col_offset },
        x: values(m * n_in, 1),
        a: values(adapters * rank * n_in, 2),
        b: values(adapters * n_out * rank, 3),
        scales: values(adapters, 4),
        index,
        u: vec![9.0; m * rank],
        y: values(m * ldy, 5),
    }
}

/// u and y by the GPU and by the twin.
fn run(gpu: &mut Gpu, t: &Batch) -> [(Vec<f32>, Vec<f32>); 2] {
    let (x, a, b) = (gpu.upload(&t.x), gpu.upload(&t.a), gpu.upload(&t.b));
    let (scales, index) = (gpu.upload(&t.scales), gpu.upload(&t.index));
    let (mut u, mut y) = (gpu.upload(&t.u), gpu.upload(&t.y));
    gpu.run(
        &t.kernel,
        GroupedLoraForwardArgs {
            x: x.arg(),
            a: a.arg(),
            b: b.arg(),
            scales: scales.arg(),
            index: index.arg(),
            u: u.arg_mut(),
            y: y.arg_mut(),
        },
    );
    let (mut want_u, mut want_y) = (t.u.clone(), t.y.clone());
    t.kernel.cpu(GroupedLoraForwardArgs {
        x: (&t.x).into(),
        a: (&t.a).into(),
        b: (&t.b).into(),
        scales: (&t.scales).into(),
        index: (&t.index[..]).into(),
        u: (&mut want_u).into(),
        y: (&mut want_y).into(),
    });
    [(u.to_vec(), y.to_vec()), (want_u, want_y)]
}

fn equals_the_twin(gpu: &mut Gpu, t: &Batch) {
    let [(u, y), (want_u, want_y)] = run(gpu, t);
    assert_eq!(bits(&u), bits(&want_u), "u of {:?}", t.kernel);
    assert_eq!(bits(&y), bits(&want_y), "y of {:?}", t.kernel);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_row_meets_its_adapter(
        index in prop::collection::vec(0u32..6, 0..50),
        (n_in, n_out, rank) in (1usize..70, 1usize..90, prop_oneof![1usize..70, Just(100)]),
        (adapters, pad) in (1usize..5, 0usize..5),
    ) {
        let t = batch(index, [n_in, n_out, rank, adapters], n_out + pad, pad / 2);
        equals_the_twin(&mut Gpu::new(), &t);
    }
}

#[test]
fn a_row_is_what_the_plain_kernel_makes_of_it() {
    let t = batch(vec![2, 0, u32::MAX, 2, 1, 1, 0, 2, 3], [40, 36, 12, 3], 40, 4);
    let mut gpu = Gpu::new();
    let [(u, y), _] = run(&mut gpu, &t);
    assert_eq!(gpu.launches.len(), 1);
    let GroupedLoraForward { n_in, n_out, rank, ldy, col_offset, .. } = t.kernel;
    for (i, g) in t.index.iter().map(|g| *g as usize).enumerate() {
        let (mut want_u, mut want_y) = (vec![0.0; rank], t.y[i * ldy..][..ldy].to_vec());
        if g < 3 {
            let plain = LoraForward { m: 1, n_in, n_out, rank, scale: t.scales[g], ldy, col_offset };
            plain.cpu(LoraForwardArgs {
                x: t.x[i * n_in..][..n_in].into(),
                a: t.a[g * rank * n_in..][..rank * n_in].into(),
                b: t.b[g * n_out * rank..][..n_out * rank].into(),
                u: (&mut want_u).into(),
                y: (&mut want_y).into(),
            });
        }
        assert_eq!(bits(&u[i * rank..][..rank]), bits(&want_u), "u of row {i}");
        assert_eq!(bits(&y[i * ldy..][..ldy]), bits(&want_y), "y of row {i}");
    }
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        for rank in [8, 33, 65] {
            let index = (0..37).map(|i| [0, 0, 1, 5, 2][i / 3 % 5]).collect();
            equals_the_twin(gpu, &batch(index, [68, 72, rank, 3], 80, 4));
        }
    });
}

#[test]
fn an_adapter_costs_one_pass_however_its_rows_lie() {
    let counted = |index: Vec<u32>| {
        let t = batch(index, [64, 64, 16, 4], 64, 0);
        let mut gpu = Gpu::new();
        let args = [&t.x, &t.a, &t.b, &t.scales].map(|v| gpu.upload(v));
        let (index, mut u, mut y) = (gpu.upload(&t.index), gpu.upload(&t.u), gpu.upload(&t.y));
        let [x, a, b, scales] = args.each_ref().map(|v| v.arg());
        let args =
            GroupedLoraForwardArgs { x, a, b, scales, index: index.arg(), u: u.arg_mut(), y: y.arg_mut() };
        gpu.run(&t.kernel, args).global_loads.bytes
    };
    let sorted = counted((0..16).map(|i| i / 8).collect());
    let mixed = counted((0..16).map(|i| i % 2).collect());
    assert_eq!(sorted, mixed);
    let one = counted(vec![3; 16]);
    // A second adapter is a second pass over x and over its own A and B, and its scale (read by 256 lanes at once); y is
    // read once.
    assert_eq!(sorted - one, 4 * (16 * 64 + 2 * 16 * 64 + 256));
}
