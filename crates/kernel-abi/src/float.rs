//! Element types of kernels, and kernels over other element types than f32.

pub use half::{bf16, f16};

/// A floating-point element type of a kernel. Sums are always f32 or wider.
pub trait Float: bytemuck::Pod + Send + Sync + std::fmt::Debug + 'static {
    /// How entries are named: `f32`, `f16`, `bf16`.
    const NAME: &'static str;
    /// Widened.
    fn to_f32(self) -> f32;
    /// Rounded to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
}

impl Float for f32 {
    const NAME: &'static str = "f32";
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(x: f32) -> f32 {
        x
    }
}
impl Float for f16 {
    const NAME: &'static str = "f16";
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn from_f32(x: f32) -> f16 {
        f16::from_f32(x)
    }
}
impl Float for bf16 {
    const NAME: &'static str = "bf16";
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
}

/// A 16-bit element type.
pub trait Half: Float {}
impl Half for f16 {}
impl Half for bf16 {}

/// Declares `$typed<T>`: the kernel `$kernel` over elements of type `T` instead of f32 (same shape, other arguments), made
/// by `$kernel::of::<T>()`.
///
/// A family implements [`crate::Kernel`] for it over the [`Half`] types, where it has PTX for them; the CPU twin widens,
/// computes in f32 and rounds once.
#[macro_export]
macro_rules! typed {
    ($(#[$doc:meta])* $typed:ident, $kernel:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $typed<T> {
            /// The shape.
            pub kernel: $kernel,
            element: std::marker::PhantomData<T>,
        }

        impl $kernel {
            /// The same kernel over elements of type `T`.
            pub fn of<T: $crate::Float>(self) -> $typed<T> {
                $typed { kernel: self, element: std::marker::PhantomData }
            }
        }
    };
}

/// Widened elements.
pub fn widen<T: Float>(x: &[T]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// Rounds `wide` into `to`.
pub fn narrow<T: Float>(wide: &[f32], to: &mut [T]) {
    to.iter_mut().zip(wide).for_each(|(t, w)| *t = T::from_f32(*w));
}
