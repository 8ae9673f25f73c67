//! The scalar types of PTX (ISA section 5.2) and the state spaces (section 5.1).
use std::fmt;

/// Declares an enum whose variants are PTX words, with both directions of the mapping.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $(#[doc = concat!("`", $text, "`")] $variant),* }
        impl $name {
            /// Every variant, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// The word in PTX, without a leading dot.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
            /// The variant that a PTX word (without its dot) names.
            pub fn from_word(word: &str) -> Option<$name> {
                match word { $($text => Some($name::$variant),)* _ => None }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// A scalar type as an instruction or a declaration writes it.
    Type {
        Pred = "pred", B1 = "b1",
        U4 = "u4", S4 = "s4",
        B8 = "b8", U8 = "u8", S8 = "s8",
        B16 = "b16", U16 = "u16", S16 = "s16",
        B32 = "b32", U32 = "u32", S32 = "s32",
        B64 = "b64", U64 = "u64", S64 = "s64",
        B128 = "b128",
        F16 = "f16", F16x2 = "f16x2", Bf16 = "bf16", Bf16x2 = "bf16x2",
        Tf32 = "tf32", F32 = "f32", F64 = "f64",
        E4m3 = "e4m3", E5m2 = "e5m2", E4m3x2 = "e4m3x2", E5m2x2 = "e5m2x2",
        U16x2 = "u16x2", S16x2 = "s16x2",
    }
}

/// The family a type belongs to; operand compatibility (ISA section 9.4) is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `.b8` to `.b128`: bits without an interpretation
    Bits,
    /// `.u8` to `.u64`, `.u4`
    Unsigned,
    /// `.s8` to `.s64`, `.s4`
    Signed,
    /// every floating-point format, packed pairs included
    Float,
    /// `.pred`
    Predicate,
}

impl Type {
    /// The width in bits of one value (packed pairs count whole); a predicate counts 1.
    pub fn bits(self) -> u32 {
        use Type::*;
        match self {
            Pred | B1 => 1,
            U4 | S4 => 4,
            B8 | U8 | S8 | E4m3 | E5m2 => 8,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 16,
            B32 | U32 | S32 | F16x2 | Bf16x2 | Tf32 | F32 | U16x2 | S16x2 => 32,
            B64 | U64 | S64 | F64 => 64,
            B128 => 128,
        }
    }

    /// The size in bytes of one value in memory (at least 1).
    pub fn bytes(self) -> usize {
        (self.bits() as usize).div_ceil(8)
    }

    /// The family of the type.
    pub fn class(self) -> Class {
        use Type::*;
        match self {
            Pred => Class::Predicate,
            B1 | B8 | B16 | B32 | B64 | B128 => Class::Bits,
            U4 | U8 | U16 | U32 | U64 | U16x2 => Class::Unsigned,
            S4 | S8 | S16 | S32 | S64 | S16x2 => Class::Signed,
            F16 | F16x2 | Bf16 | Bf16x2 | Tf32 | F32 | F64 | E4m3 | E5m2 | E4m3x2 | E5m2x2 => Class::Float,
        }
    }

    /// Whether the type is a signed integer.
    pub fn is_signed(self) -> bool {
        self.class() == Class::Signed
    }

    /// Whether the type is a floating-point format.
    pub fn is_float(self) -> bool {
        self.class() == Class::Float
    }

    /// Whether the type is an integer with a sign or without (not bits).
    pub fn is_integer(self) -> bool {
        matches!(self.class(), Class::Signed | Class::Unsigned)
    }

    /// The untyped bits of the same width.
    pub fn to_bits(self) -> Type {
        match self.bits() {
            1 if self == Type::Pred => Type::Pred,
            1 => Type::B1,
            4 | 8 => Type::B8,
            16 => Type::B16,
            32 => Type::B32,
            64 => Type::B64,
            _ => Type::B128,
        }
    }
}

words! {
    /// A state space (ISA section 5.1). No space at all on an instruction means generic addressing.
    Space {
        Reg = "reg", Special = "sreg", Const = "const", Global = "global", Local = "local", Param = "param",
        Shared = "shared", SharedCta = "shared::cta", SharedCluster = "shared::cluster",
        ParamEntry = "param::entry", ParamFunc = "param::func",
    }
}

impl Space {
    /// The space without its sub-qualifier: `shared::cta` and (on one-block clusters) `shared::cluster` are `shared`.
    pub fn base(self) -> Space {
        match self {
            Space::SharedCta | Space::SharedCluster => Space::Shared,
            Space::ParamEntry | Space::ParamFunc => Space::Param,
            other => other,
        }
    }
}

/// A place in the source: both count from 1; columns count bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Span {
    /// line, from 1
    pub line: u32,
    /// column in bytes, from 1
    pub column: u32,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
