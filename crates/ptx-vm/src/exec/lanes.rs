//! Operations that touch nothing but registers, over all lanes of a warp at once.
//!
//! An instruction is decoded to a boxed [`RowOp`]: one indirect call per warp-instruction, inside it a loop of 32
//! trips over plain arrays that the compiler turns into vector code. Every operation exists three times (baseline,
//! AVX2, AVX-512); which one is boxed is decided once, when the module is decoded.
//!
//! Results go to a local array first and are merged into the destination under the mask afterwards: the loop has
//! no aliasing and no branches, and the source rows need no copies.
use std::marker::PhantomData;

use super::regs::{LANES, Lane, Regs};

/// Rows and predicates an operation works on: `d` is the destination, the rest are sources.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Args {
    /// Destination row, or predicate.
    pub d: u32,
    /// Sources.
    pub s: [u32; 4],
}

/// A decoded register-to-register instruction.
pub(crate) trait RowOp: Send + Sync {
    /// Executes it on the lanes of `mask` (not empty). `noise` is the adversary's seed for `.approx`, or 0.
    fn run(&self, regs: &mut Regs, args: &Args, mask: u32, noise: u64);
}

/// What a [`RowOp`] does, free of the question which vector instructions it may use.
pub(crate) trait LaneOp: Send + Sync + 'static {
    fn go(&self, regs: &mut Regs, args: &Args, mask: u32, noise: u64);
}

struct Base<O>(O);
impl<O: LaneOp> RowOp for Base<O> {
    fn run(&self, regs: &mut Regs, args: &Args, mask: u32, noise: u64) {
        self.0.go(regs, args, mask, noise);
    }
}

#[cfg(all(target_arch = "x86_64", not(debug_assertions)))]
mod x86 {
    use super::*;

    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
    fn avx2<O: LaneOp>(op: &O, regs: &mut Regs, args: &Args, mask: u32, noise: u64) {
        op.go(regs, args, mask, noise);
    }

    #[target_feature(
        enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512cd"
    )]
    fn avx512<O: LaneOp>(op: &O, regs: &mut Regs, args: &Args, mask: u32, noise: u64) {
        op.go(regs, args, mask, noise);
    }

    pub struct Avx2<O>(pub O);
    impl<O: LaneOp> RowOp for Avx2<O> {
        fn run(&self, regs: &mut Regs, args: &Args, mask: u32, noise: u64) {
            // SAFETY: `boxed` makes this type only after it found these features on the host.
            unsafe { avx2(&self.0, regs, args, mask, noise) }
        }
    }

    pub struct Avx512<O>(pub O);
    impl<O: LaneOp> RowOp for Avx512<O> {
        fn run(&self, regs: &mut Regs, args: &Args, mask: u32, noise: u64) {
            // SAFETY: `boxed` makes this type only after it found these features on the host.
            unsafe { avx512(&self.0, regs, args, mask, noise) }
        }
    }
}

/// The vector instructions of the host: 0 baseline, 1 AVX2 and FMA, 2 AVX-512.
#[cfg(all(target_arch = "x86_64", not(debug_assertions)))]
fn level() -> u8 {
    static LEVEL: std::sync::OnceLock<u8> = std::sync::OnceLock::new();
    *LEVEL.get_or_init(|| {
        let v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("f16c");
        let v4 = v3
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512cd");
        u8::from(v3) + u8::from(v4)
    })
}

/// Boxes an operation for the host's vector instructions. Builds with debug assertions have the baseline only: they
/// are for debugging the machine, and compile in a third of the time.
pub(crate) fn boxed<O: LaneOp>(op: O) -> Box<dyn RowOp> {
    #[cfg(all(target_arch = "x86_64", not(debug_assertions)))]
    match level() {
        2 => return Box::new(x86::Avx512(op)),
        1 => return Box::new(x86::Avx2(op)),
        _ => {}
    }
    Box::new(Base(op))
}

/// Boxes a rare operation: one copy of its code, for any host.
pub(crate) fn plain<O: LaneOp>(op: O) -> Box<dyn RowOp> {
    Box::new(Base(op))
}

macro_rules! map_ops {
    ($($name:ident, $build:ident, $rare:ident, [$($t:ident $arg:ident $i:literal),*];)*) => {$(
        struct $name<$($t,)* D, F>(F, PhantomData<fn($($t),*) -> D>);

        impl<$($t: Lane,)* D: Lane, F: Fn($($t),*) -> D + Send + Sync + 'static> LaneOp for $name<$($t,)* D, F> {
            #[inline(always)]
            fn go(&self, regs: &mut Regs, args: &Args, mask: u32, _noise: u64) {
                let mut out = [D::default(); LANES];
                {
                    $(let $arg = regs.get::<$t>(args.s[$i]);)*
                    for l in 0..LANES {
                        out[l] = (self.0)($($arg[l]),*);
                    }
                }
                regs.put(args.d, mask, &out);
            }
        }

        /// `d[l] = f(sources[l])` for every lane.
        pub(crate) fn $build<$($t: Lane,)* D: Lane>(
            f: impl Fn($($t),*) -> D + Send + Sync + 'static,
        ) -> Box<dyn RowOp> {
            boxed($name(f, PhantomData))
        }

        /// The same for a rare instruction.
        pub(crate) fn $rare<$($t: Lane,)* D: Lane>(
            f: impl Fn($($t),*) -> D + Send + Sync + 'static,
        ) -> Box<dyn RowOp> {
            plain($name(f, PhantomData))
        }
    )*};
}

map_ops! {
    Map1, map1, rare1, [A a 0];
    Map2, map2, rare2, [A a 0, B b 1];
    Map3, map3, rare3, [A a 0, B b 1, C c 2];
    Map4, map4, rare4, [A a 0, B b 1, C c 2, E e 3];
}

/// `d = f(a, noise)`: `.approx` functions.
struct Noisy1<A, D, F>(F, PhantomData<fn(A) -> D>);
impl<A: Lane, D: Lane, F: Fn(A, u64) -> D + Send + Sync + 'static> LaneOp for Noisy1<A, D, F> {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, args: &Args, mask: u32, noise: u64) {
        let mut out = [D::default(); LANES];
        let a = regs.get::<A>(args.s[0]);
        if noise == 0 {
            for l in 0..LANES {
                out[l] = (self.0)(a[l], 0);
            }
        } else {
            for l in 0..LANES {
                out[l] = (self.0)(a[l], noise);
            }
        }
        regs.put(args.d, mask, &out);
    }
}

/// `d[l] = f(a[l], noise)`.
pub(crate) fn noisy1<A: Lane, D: Lane>(f: impl Fn(A, u64) -> D + Send + Sync + 'static) -> Box<dyn RowOp> {
    boxed(Noisy1(f, PhantomData))
}

/// `d = f(a, b, noise)`.
struct Noisy2<F>(F);
impl<F: Fn(u32, u32, u64) -> u32 + Send + Sync + 'static> LaneOp for Noisy2<F> {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, args: &Args, mask: u32, noise: u64) {
        let mut out = [0; LANES];
        let (a, b) = (regs.get::<u32>(args.s[0]), regs.get::<u32>(args.s[1]));
        for l in 0..LANES {
            out[l] = (self.0)(a[l], b[l], noise);
        }
        regs.put(args.d, mask, &out);
    }
}

/// `d[l] = f(a[l], b[l], noise)` on 32-bit lanes.
pub(crate) fn noisy2(f: impl Fn(u32, u32, u64) -> u32 + Send + Sync + 'static) -> Box<dyn RowOp> {
    boxed(Noisy2(f))
}

/// What a comparison's bits are combined with before they are written: `setp.CmpOp.BoolOp p|q, a, b, c`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Combine {
    /// `and`, `or`, `xor` with predicate `args.s[2]`, negated or not.
    pub with: Option<(crate::syntax::ast::Operation, bool)>,
    /// The predicate that gets the combined complement.
    pub second: Option<u32>,
    /// Whether `args.d` is a predicate to write at all.
    pub first: bool,
}

struct Compare<T, F>(F, Combine, PhantomData<fn(T)>);
impl<T: Lane, F: Fn(T, T) -> bool + Send + Sync + 'static> LaneOp for Compare<T, F> {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, args: &Args, mask: u32, _noise: u64) {
        let mut flags = [0u32; LANES];
        {
            let (a, b) = (regs.get::<T>(args.s[0]), regs.get::<T>(args.s[1]));
            for l in 0..LANES {
                flags[l] = u32::from((self.0)(a[l], b[l])) << l;
            }
        }
        let mut bits = 0;
        for f in flags {
            bits |= f;
        }
        let (p, q) = combine(&self.1, regs, args.s[2], bits);
        if self.1.first {
            regs.set_pred(args.d, mask, p);
        }
        if let Some(second) = self.1.second {
            regs.set_pred(second, mask, q);
        }
    }
}

#[inline]
fn combine(how: &Combine, regs: &Regs, with: u32, bits: u32) -> (u32, u32) {
    (combined(how.with, regs, with, bits), combined(how.with, regs, with, !bits))
}

/// A comparison's bits after `.BoolOp` with a predicate, negated or not.
#[inline]
pub(crate) fn combined(
    how: Option<(crate::syntax::ast::Operation, bool)>,
    regs: &Regs,
    with: u32,
    bits: u32,
) -> u32 {
    use crate::syntax::ast::Operation;
    let Some((operation, negate)) = how else { return bits };
    let c = regs.preds[with as usize] ^ if negate { !0 } else { 0 };
    match operation {
        Operation::And => bits & c,
        Operation::Or => bits | c,
        _ => bits ^ c,
    }
}

/// `setp`: a predicate from a comparison of two registers.
pub(crate) fn compare<T: Lane>(
    how: Combine,
    f: impl Fn(T, T) -> bool + Send + Sync + 'static,
) -> Box<dyn RowOp> {
    boxed(Compare(f, how, PhantomData))
}

/// An operation written out over the whole register file: packed comparisons, carries, moves between predicates.
struct Whole<F>(F);
impl<F: Fn(&mut Regs, &Args, u32) + Send + Sync + 'static> LaneOp for Whole<F> {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, args: &Args, mask: u32, _noise: u64) {
        (self.0)(regs, args, mask);
    }
}

/// Boxes a closure over registers, operands and mask.
pub(crate) fn whole(f: impl Fn(&mut Regs, &Args, u32) + Send + Sync + 'static) -> Box<dyn RowOp> {
    plain(Whole(f))
}

/// `selp`: `a` where the predicate `args.s[2]` is set, else `b`.
struct Select<T>(bool, PhantomData<fn(T)>);
impl<T: Lane> LaneOp for Select<T> {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, args: &Args, mask: u32, _noise: u64) {
        let choose = regs.preds[args.s[2] as usize] ^ if self.0 { !0 } else { 0 };
        let mut out = [T::default(); LANES];
        {
            let (a, b) = (regs.get::<T>(args.s[0]), regs.get::<T>(args.s[1]));
            for l in 0..LANES {
                out[l] = if choose >> l & 1 == 1 { a[l] } else { b[l] };
            }
        }
        regs.put(args.d, mask, &out);
    }
}

/// `selp` on one width.
pub(crate) fn select<T: Lane>(negate: bool) -> Box<dyn RowOp> {
    boxed(Select::<T>(negate, PhantomData))
}
