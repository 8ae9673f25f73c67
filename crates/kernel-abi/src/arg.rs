//! Typed kernel arguments: host slices, device addresses, or shapes without storage for dry runs.

use crate::DevicePtr;

/// The address of everything in a dry run: nothing is there, but it is aligned and not null.
const DRY_RUN: DevicePtr = DevicePtr(1 << 41);

/// An input of a kernel.
#[derive(Debug)]
pub enum In<'a, T = f32> {
    /// Elements in host memory.
    Host(&'a [T]),
    /// The first of so many elements in device memory.
    Device(DevicePtr, usize),
    /// Only a length: the dry-run device allocates nothing.
    Meta(usize),
}

/// An output (or in-place operand) of a kernel.
#[derive(Debug)]
pub enum Out<'a, T = f32> {
    /// Elements in host memory.
    Host(&'a mut [T]),
    /// The first of so many elements in device memory.
    Device(DevicePtr, usize),
    /// Only a length: the dry-run device allocates nothing.
    Meta(usize),
}

impl<T> Clone for In<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<'_, T> {}

impl<'a, T> In<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            In::Host(s) => s.len(),
            In::Device(_, n) | In::Meta(n) => *n,
        }
    }
    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The elements. The device calls a CPU twin only with host arguments; anything else is a bug there.
    pub fn host(self) -> &'a [T] {
        match self {
            In::Host(s) => s,
            _ => unreachable!("a CPU twin was called with an argument that is not on the host"),
        }
    }
    /// The address of the elements; a dry run's is made up. The device calls a PTX face only with such arguments;
    /// anything else is a bug there.
    pub fn device(&self) -> DevicePtr {
        match self {
            In::Device(at, _) => *at,
            In::Meta(_) => DRY_RUN,
            In::Host(_) => unreachable!("a PTX face was called with an argument that is not on the device"),
        }
    }
    /// The elements from `start` on.
    pub fn skip(self, start: usize) -> Self {
        match self {
            In::Host(s) => In::Host(&s[start..]),
            In::Device(at, n) => In::Device(at.offset(start * size_of::<T>()), n - start),
            In::Meta(n) => In::Meta(n - start),
        }
    }
}

impl<'a, T> Out<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Out::Host(s) => s.len(),
            Out::Device(_, n) | Out::Meta(n) => *n,
        }
    }
    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The elements. The device calls a CPU twin only with host arguments; anything else is a bug there.
    pub fn host(self) -> &'a mut [T] {
        match self {
            Out::Host(s) => s,
            _ => unreachable!("a CPU twin was called with an argument that is not on the host"),
        }
    }
    /// The address of the elements; a dry run's is made up. The device calls a PTX face only with such arguments;
    /// anything else is a bug there.
    pub fn device(&self) -> DevicePtr {
        match self {
            Out::Device(at, _) => *at,
            Out::Meta(_) => DRY_RUN,
            Out::Host(_) => unreachable!("a PTX face was called with an argument that is not on the device"),
        }
    }
    /// The elements from `start` on.
    pub fn skip(self, start: usize) -> Self {
        match self {
            Out::Host(s) => Out::Host(&mut s[start..]),
            Out::Device(at, n) => Out::Device(at.offset(start * size_of::<T>()), n - start),
            Out::Meta(n) => Out::Meta(n - start),
        }
    }
    /// The same elements again, for a call in between.
    pub fn again(&mut self) -> Out<'_, T> {
        match self {
            Out::Host(s) => Out::Host(s),
            Out::Device(at, n) => Out::Device(*at, *n),
            Out::Meta(n) => Out::Meta(*n),
        }
    }
}

impl<'a, T> From<&'a [T]> for In<'a, T> {
    fn from(s: &'a [T]) -> Self {
        In::Host(s)
    }
}
impl<'a, T> From<&'a Vec<T>> for In<'a, T> {
    fn from(s: &'a Vec<T>) -> Self {
        In::Host(s)
    }
}
impl<'a, T> From<&'a mut [T]> for Out<'a, T> {
    fn from(s: &'a mut [T]) -> Self {
        Out::Host(s)
    }
}
impl<'a, T> From<&'a mut Vec<T>> for Out<'a, T> {
    fn from(s: &'a mut Vec<T>) -> Self {
        Out::Host(s)
    }
}

/// The address of an optional input, or null.
pub fn optional<T>(arg: Option<In<'_, T>>) -> DevicePtr {
    arg.map_or(DevicePtr::NULL, |a| a.device())
}

/// The address of an optional output, or null.
pub fn optional_out<T>(arg: &Option<Out<'_, T>>) -> DevicePtr {
    arg.as_ref().map_or(DevicePtr::NULL, Out::device)
}

/// A wrong argument to a kernel: names the kernel, the argument and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}: argument `{arg}`: {problem}")]
pub struct ArgError {
    /// [`crate::Kernel::NAME`].
    pub kernel: &'static str,
    /// The argument's field name.
    pub arg: &'static str,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// `Ok` when `got == want`, else an error that names the argument.
pub fn expect_len(kernel: &'static str, arg: &'static str, got: usize, want: usize) -> Result<(), ArgError> {
    if got == want {
        return Ok(());
    }
    Err(ArgError { kernel, arg, problem: format!("has {got} elements, expected {want}") })
}
