//! The 16-bit PTX on the VM: against f64 with the CPU twin's error as the measure, bitwise whatever the number of rows,
//! strict and adversarial.

use kernel_abi::{Half, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Gpu, Vram, compare::*, every_way};
use lora::*;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
struct Case {
    m: usize,
    n_in: usize,
    n_out: usize,
    rank: usize,
    ldy: usize,
    col_offset: usize,
    /// Elements by which every buffer is off an aligned address.
    skip: usize,
}

/// Relative error that a result of this type may have.
fn limit<T: Half>() -> f64 {
    if T::NAME == "f16" { 2e-3 } else { 1e-2 }
}

fn rounded<T: Half>(n: usize, seed: u32) -> Vec<T> {
    let mut v = vec![T::from_f32(0.0); n];
    narrow(&values(n, seed), &mut v);
    v
}

/// c += scale * op(a) b over `[m, k]` and `[k, n]` operands given by their elements.
fn product(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
    scale: f64,
    c: &mut [f64],
) {
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] += scale * (0..k).map(|t| a(i, t) * b(t, j)).sum::<f64>();
        }
    }
}

struct Forward<T> {
    u: Vec<T>,
    y: Vec<T>,
}

/// By the GPU and by the twin; every element is what was asked for, or what it was before.
fn forward<T: Half>(gpu: &mut Gpu, c: Case) -> [Forward<T>; 2] {
    let Case { m, n_in, n_out, rank, ldy, col_offset, skip } = c;
    let (x, a) = (rounded::<T>(m * n_in + skip, 1), rounded::<T>(rank * n_in + skip, 2));
    let (b, mut y) = (rounded::<T>(n_out * rank + skip, 3), rounded::<T>(m * ldy + skip, 4));
    let mut u = rounded::<T>(m * rank + skip, 5);
    let kernel = LoraForward { m, n_in, n_out, rank, scale: 0.3, ldy, col_offset }.of::<T>();
    let (gx, ga, gb) = (gpu.upload(&x), gpu.upload(&a), gpu.upload(&b));
    let (mut gu, mut gy) = (gpu.upload(&u), gpu.upload(&y));
    gpu.run(
        &kernel,
        LoraForwardArgs {
            x: gx.arg().skip(skip),
            a: ga.arg().skip(skip),
            b: gb.arg().skip(skip),
            u: gu.arg_mut().skip(skip),
            y: gy.arg_mut().skip(skip),
        },
    );
    kernel.cpu(LoraForwardArgs {
        x: x[skip..].into(),
        a: a[skip..].into(),
        b: b[skip..].into(),
        u: u[skip..].as_mut().into(),
        y: y[skip..].as_mut().into(),
    });
    [Forward { u: gu.to_vec(), y: gy.to_vec() }, Forward { u, y }]
}

fn forward_is_right<T: Half>(gpu: &mut Gpu, c: Case) {
    let Case { m, n_in, n_out, rank, ldy, col_offset, skip } = c;
    let [got, twin] = forward::<T>(gpu, c);
    let what = |s: &str| format!("{s} of {c:?}, {}", T::NAME);
    let f = |v: &[T]| wide(&widen(&v[skip..]));
    let (x, a, b) = (
        f(&rounded::<T>(m * n_in + skip, 1)),
        f(&rounded::<T>(rank * n_in + skip, 2)),
        f(&rounded::<T>(n_out * rank + skip, 3)),
    );
    let mut u = vec![0.0; m * rank];
    product([m, rank, n_in], |i, t| x[i * n_in + t], |t, r| a[r * n_in + t], 1.0, &mut u);
    let before = f(&rounded::<T>(m * ldy + skip, 4));
    let mut added = vec![0.0; m * n_out];
    product([m, n_out, rank], |i, r| u[i * rank + r], |r, j| b[j * rank + r], f64::from(0.3f32), &mut added);
    let y: Vec<f64> = (0..m * ldy)
        .map(|e| {
            let (i, j) = (e / ldy, e % ldy);
            let ours = (col_offset..col_offset + n_out).contains(&j);
            before[e] + if ours { added[i * n_out + j - col_offset] } else { 0.0 }
        })
        .collect();
    for (s, got, twin, want) in [("u", &got.u, &twin.u, &u), ("y", &got.y, &twin.y, &y)] {
        let (got, twin) = (widen(&got[skip..]), widen(&twin[skip..]));
        assert_close(&what(s), &got, want, limit::<T>());
        assert_twice(&what(s), &got, &twin, want, 1e-5);
    }
    // Nothing beside the covered columns, or before the buffers, changes.
    let untouched = |v: &[T]| -> Vec<f32> {
        let inside = |e: usize| e >= skip && (col_offset..col_offset + n_out).contains(&((e - skip) % ldy));
        widen(v).into_iter().enumerate().filter(|(e, _)| !inside(*e)).map(|(_, v)| v).collect()
    };
    assert_eq!(untouched(&got.y), untouched(&rounded::<T>(m * ldy + skip, 4)), "{}", what("y outside"));
    assert_eq!(widen(&got.u[..skip]), widen(&rounded::<T>(m * rank + skip, 5)[..skip]));
}

struct Backward<T> {
    da: Vec<f32>,
    db: Vec<f32>,
    dx: Vec<T>,
}

struct Buffers<T> {
    x: Vram<T>,
    a: Vram<T>,
    b: Vram<T>,
    u: Vram<T>,
    dy: Vram<T>,
}

fn backward<T: Half>(gpu: &mut Gpu, c: Case, with_dx: bool) -> [Backward<T>; 2] {
    let Case { m, n_in, n_out, rank, ldy, col_offset, skip } = c;
    let lens = [m * n_in, rank * n_in, n_out * rank, m * rank, m * ldy];
    let v: Vec<Vec<T>> = (0..5).map(|i| rounded(lens[i] + skip, i as u32 + 1)).collect();
    let mut twin = Backward {
        da: values(lens[1] + skip, 11),
        db: values(lens[2] + skip, 12),
        dx: rounded::<T>(lens[0] + skip, 13),
    };
    let kernel = LoraBackward { m, n_in, n_out, rank, scale: 0.3, ldy, col_offset }.of::<T>();
    let g = Buffers {
        x: gpu.upload(&v[0]),
        a: gpu.upload(&v[1]),
        b: gpu.upload(&v[2]),
        u: gpu.upload(&v[3]),
        dy: gpu.upload(&v[4]),
    };
    let (mut da, mut db, mut dx) = (gpu.upload(&twin.da), gpu.upload(&twin.db), gpu.upload(&twin.dx));
    gpu.run(
        &kernel,
        LoraBackwardArgs {
            x: g.x.arg().skip(skip),
            a: g.a.arg().skip(skip),
            b: g.b.arg().skip(skip),
            u: g.u.arg().skip(skip),
            dy: g.dy.arg().skip(skip),
            da: da.arg_mut().skip(skip),
            db: db.arg_mut().skip(skip),
            dx: with_dx.then(|| dx.arg_mut().skip(skip)),
        },
    );
    kernel.cpu(LoraBackwardArgs {
        x: v[0][skip..].into(),
        a: v[1][skip..].into(),
        b: v[2][skip..].into(),
        u: v[3][skip..].into(),
        dy: v[4][skip..].into(),
        da: (&mut twin.da[skip..]).into(),
        db: (&mut twin.db[skip..]).into(),
        dx: with_dx.then(|| twin.dx[skip..].as_mut().into()),
    });
    [Backward { da: da.to_vec(), db: db.to_vec(), dx: dx.to_vec() }, twin]
}

fn backward_is_right<T: Half>(gpu: &mut Gpu, c: Case, with_dx: bool) {
    let Case { m, n_in, n_out, rank, ldy, col_offset, skip } = c;
    let [got, twin] = backward::<T>(gpu, c, with_dx);
    let lens = [m * n_in, rank * n_in, n_out * rank, m * rank, m * ldy];
    let v: Vec<Vec<f64>> =
        (0..5).map(|i| wide(&widen(&rounded::<T>(lens[i] + skip, i as u32 + 1)[skip..]))).collect();
    let [x, a, b, u, dy] = [&v[0], &v[1], &v[2], &v[3], &v[4]];
    let s = f64::from(0.3f32);
    let dy = |i: usize, j: usize| dy[i * ldy + col_offset + j];
    let mut du = vec![0.0; m * rank];
    product([m, rank, n_out], dy, |j, r| b[j * rank + r], s, &mut du);
    let (mut da, mut db) =
        (wide(&values(lens[1] + skip, 11)[skip..]), wide(&values(lens[2] + skip, 12)[skip..]));
    let mut dx = wide(&widen(&rounded::<T>(lens[0] + skip, 13)[skip..]));
    product([n_out, rank, m], |j, i| dy(i, j), |i, r| u[i * rank + r], s, &mut db);
    product([rank, n_in, m], |r, i| du[i * rank + r], |i, t| x[i * n_in + t], 1.0, &mut da);
    if with_dx {
        product([m, n_in, rank], |i, r| du[i * rank + r], |r, t| a[r * n_in + t], 1.0, &mut dx);
    }
    let (got_dx, twin_dx) = (widen(&got.dx[skip..]), widen(&twin.dx[skip..]));
    let all = [
        ("dA", &got.da[skip..], &twin.da[skip..], &da),
        ("dB", &got.db[skip..], &twin.db[skip..], &db),
        ("dx", &got_dx, &twin_dx, &dx),
    ];
    for (what, got, twin, want) in all {
        let what = format!("{what} of {c:?}, {}", T::NAME);
        assert_close(&what, got, want, limit::<T>());
        assert_twice(&what, got, twin, want, 1e-5);
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let side = || prop_oneof![1usize..80, (1usize..24).prop_map(|n| 8 * n), Just(131)];
    let rank = prop_oneof![Just(8usize), 1usize..9, 9usize..40, 60usize..70, Just(136)];
    let pad = prop_oneof![0usize..9, Just(8)];
    (0usize..40, side(), side(), rank, pad, prop_oneof![Just(0usize), Just(8), 0usize..4]).prop_map(
        |(m, n_in, n_out, rank, pad, skip)| Case {
            m,
            n_in,
            n_out,
            rank,
            ldy: n_out + pad,
            col_offset: if pad == 8 { 8 } else { pad / 2 },
            skip,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn forward_is_as_near_as_the_twin(c in cases()) {
        forward_is_right::<f16>(&mut Gpu::new(), c);
        forward_is_right::<bf16>(&mut Gpu::new(), c);
    }

    #[test]
    fn backward_is_as_near_as_the_twin(c in cases(), with_dx in any::<bool>()) {
        backward_is_right::<f16>(&mut Gpu::new(), c, with_dx);
        backward_is_right::<bf16>(&mut Gpu::new(), c, with_dx);
    }
}

#[test]
fn a_row_s_bits_do_not_depend_on_its_company() {
    for rank in [8, 32, 72] {
        let one = Case { m: 1, n_in: 200, n_out: 40, rank, ldy: 40, col_offset: 0, skip: 0 };
        let mut gpu = Gpu::new();
        let ([short, _], [long, _]) =
            (forward::<bf16>(&mut gpu, one), forward::<bf16>(&mut gpu, Case { m: 67, ..one }));
        assert_eq!(widen(&short.u), widen(&long.u[..rank]));
        assert_eq!(widen(&short.y), widen(&long.y[..40]));
        let [short, _] = backward::<bf16>(&mut gpu, one, true);
        let [long, _] = backward::<bf16>(&mut gpu, Case { m: 67, ..one }, true);
        assert_eq!(widen(&short.dx), widen(&long.dx[..200]));
    }
}

#[test]
fn long_sums_over_rows_are_the_same_every_time() {
    for (m, rank, launches) in [(700, 17, 3), (256, 24, 2), (1100, 72, 4)] {
        let c = Case { m, n_in: 72, n_out: 40, rank, ldy: 48, col_offset: 8, skip: 0 };
        let mut gpu = Gpu::new();
        let [first, _] = backward::<f16>(&mut gpu, c, true);
        assert_eq!(gpu.launches.len(), launches, "{c:?}");
        backward_is_right::<f16>(&mut gpu, c, true);
        let [second, _] = backward::<f16>(&mut gpu, c, true);
        assert_eq!((first.da, first.db), (second.da, second.db));
        assert_eq!(widen(&first.dx), widen(&second.dx));
    }
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        for (rank, skip) in [(8, 0), (17, 1), (64, 0), (72, 8)] {
            let c = Case { m: 19, n_in: 72, n_out: 136, rank, ldy: 144, col_offset: 8, skip };
            forward_is_right::<f16>(gpu, c);
            backward_is_right::<bf16>(gpu, c, true);
        }
    });
}

fn grouped<T: Half>(gpu: &mut Gpu, [n_in, n_out, rank]: [usize; 3]) {
    let index: Vec<u32> = (0..37).map(|i| [0, 0, 1, 5, 2][i / 3 % 5]).collect();
    let (m, adapters, scales) = (index.len(), 3, [0.3f32, -0.2, 0.5]);
    let (x, a) = (rounded::<T>(m * n_in, 1), rounded::<T>(adapters * rank * n_in, 2));
    let (b, y) = (rounded::<T>(adapters * n_out * rank, 3), rounded::<T>(m * n_out, 4));
    let kernel = GroupedLoraForward { m, n_in, n_out, rank, adapters, ldy: n_out, col_offset: 0 }.of::<T>();
    let (gx, ga, gb) = (gpu.upload(&x), gpu.upload(&a), gpu.upload(&b));
    let (gi, gs, mut gy, mut gu) =
        (gpu.upload(&index), gpu.upload(&scales), gpu.upload(&y), gpu.alloc::<T>(m * rank));
    gpu.run(
        &kernel,
        GroupedLoraForwardArgs {
            x: gx.arg(),
            a: ga.arg(),
            b: gb.arg(),
            scales: gs.arg(),
            index: gi.arg(),
            u: gu.arg_mut(),
            y: gy.arg_mut(),
        },
    );
    // Each row as the plain kernel makes it alone, bit for bit.
    let (got_u, got_y) = (widen(&gu.to_vec()), widen(&gy.to_vec()));
    for (i, g) in index.iter().map(|g| *g as usize).enumerate() {
        let (mut want_u, mut want_y) = (vec![0.0; rank], widen(&y[i * n_out..][..n_out]));
        if g < adapters {
            let plain = LoraForward { m: 1, n_in, n_out, rank, scale: scales[g], ldy: n_out, col_offset: 0 };
            let (x, a) =
                (gpu.upload(&x[i * n_in..][..n_in]), gpu.upload(&a[g * rank * n_in..][..rank * n_in]));
            let b = gpu.upload(&b[g * n_out * rank..][..n_out * rank]);
            let (mut u, mut row) = (gpu.alloc::<T>(rank), gpu.upload(&y[i * n_out..][..n_out]));
            let args =
                LoraForwardArgs { x: x.arg(), a: a.arg(), b: b.arg(), u: u.arg_mut(), y: row.arg_mut() };
            gpu.run(&plain.of::<T>(), args);
            (want_u, want_y) = (widen(&u.to_vec()), widen(&row.to_vec()));
        }
        assert_eq!(got_u[i * rank..][..rank], want_u, "u of row {i}");
        assert_eq!(got_y[i * n_out..][..n_out], want_y, "y of row {i}");
    }
    // And near what the twin makes of the batch.
    let (mut want_u, mut want_y) = (rounded::<T>(m * rank, 9), y.clone());
    kernel.cpu(GroupedLoraForwardArgs {
        x: x[..].into(),
        a: a[..].into(),
        b: b[..].into(),
        scales: scales[..].into(),
        index: index[..].into(),
        u: want_u[..].as_mut().into(),
        y: want_y[..].as_mut().into(),
    });
    assert_close("u against the twin", &got_u, &wide(&widen(&want_u)), limit::<T>());
    assert_close("y against the twin", &got_y, &wide(&widen(&want_y)), limit::<T>());
}

#[test]
fn a_grouped_row_is_what_the_plain_kernel_makes_of_it() {
    for shape in [[72, 40, 16], [33, 19, 5], [64, 72, 72]] {
        grouped::<f16>(&mut Gpu::new(), shape);
        grouped::<bf16>(&mut Gpu::new(), shape);
    }
}
