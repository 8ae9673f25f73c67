//! What is wrong with a module, where, and what to do about it.
use crate::syntax::types::Span;
use std::fmt;

/// Why something is refused; drivers turn it into an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not PTX: a word or a sign where none may stand.
    Syntax,
    /// PTX, but against the rules: an unknown name, types that do not fit, a duplicate.
    Invalid,
    /// An instruction or a feature that the ISA has and this VM does not.
    Unsupported,
    /// The module's `.version` is too old for what it uses.
    Version,
    /// The module's `.target` lacks what it uses.
    Target,
    /// Larger than the VM accepts (source, arrays, nesting, instructions).
    Limit,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Why.
    pub reason: Reason,
    /// Where.
    pub span: Span,
    /// What is wrong, in one line.
    pub message: String,
    /// The source there: the instruction or the line, shortened.
    pub text: String,
}

/// A module that cannot be loaded: every finding, in the order of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The name the source was given.
    pub file: String,
    /// At least one; at most [`MAX_DIAGNOSTICS`].
    pub diagnostics: Vec<Diagnostic>,
}

/// After this many findings the rest is not looked for.
pub const MAX_DIAGNOSTICS: usize = 64;

impl LoadError {
    /// The reason of the first finding.
    pub fn reason(&self) -> Reason {
        self.diagnostics.first().map_or(Reason::Invalid, |d| d.reason)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.diagnostics.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}: {}", self.file, d.span, d.message)?;
            if !d.text.is_empty() {
                write!(f, "\n    | {}", d.text)?;
            }
        }
        if self.diagnostics.len() >= MAX_DIAGNOSTICS {
            write!(f, "\n{}: too many errors, the rest is not shown", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// The source shortened to one readable line of at most 160 characters.
pub(crate) fn excerpt(source: &str) -> String {
    const MAX: usize = 160;
    let mut out = String::new();
    for (count, word) in source.split_whitespace().enumerate() {
        if count > 0 {
            out.push(' ');
        }
        let room = MAX.saturating_sub(out.len());
        out.extend(word.chars().take(room));
        if word.len() > room {
            out.push_str(" ...");
            break;
        }
    }
    out
}
