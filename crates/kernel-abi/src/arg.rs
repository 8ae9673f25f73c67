//! Typed kernel arguments: host slices, or shapes without storage for dry runs.

/// An input of a kernel.
#[derive(Debug)]
pub enum In<'a, T = f32> {
    /// Elements in host memory.
    Host(&'a [T]),
    /// Only a length: the dry-run device allocates nothing.
    Meta(usize),
}

/// An output (or in-place operand) of a kernel.
#[derive(Debug)]
pub enum Out<'a, T = f32> {
    /// Elements in host memory.
    Host(&'a mut [T]),
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
            In::Meta(n) => *n,
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
            In::Meta(_) => unreachable!("a CPU twin was called with a dry-run argument"),
        }
    }
}

impl<'a, T> Out<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Out::Host(s) => s.len(),
            Out::Meta(n) => *n,
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
            Out::Meta(_) => unreachable!("a CPU twin was called with a dry-run argument"),
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
