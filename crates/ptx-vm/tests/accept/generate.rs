//! Instructions made from the rows of the instruction table: some that must be accepted, some that must not, and some
//! next to a row whose verdict only the real assembler knows.
use ptx_vm::check::form::{Count, Form, OperandClass, OperandType, Pattern, Since};
use ptx_vm::syntax::ast::{Class, Opcode, Type};

/// What the table says about a generated instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The row allows it.
    Accept,
    /// No row may allow it.
    Reject,
    /// Next to a row; another row may allow it.
    Open,
}

/// One generated instruction.
#[derive(Clone, Debug)]
pub struct Case {
    /// The instruction with its semicolon.
    pub text: String,
    /// What the table says.
    pub expected: Expected,
    /// Since when its words exist.
    pub since: Since,
}

/// Registers and variables that the generated instructions use.
pub const DECLARATIONS: &str = ".reg .pred %p<9>; .reg .b8 %b<9>; .reg .b16 %h<9>; .reg .u16 %uh<9>; .reg .s16 %sh<9>; \
    .reg .f16 %fh<9>; .reg .f16x2 %fx<9>; .reg .b32 %r<20>; .reg .u32 %u<9>; .reg .s32 %s<9>; .reg .f32 %f<20>; \
    .reg .b64 %rd<9>; .reg .u64 %ud<9>; .reg .s64 %sd<9>; .reg .f64 %fd<9>; \
    .param .align 16 .b8 pv[64]; .shared .align 16 .b8 sv[64];";

/// The chosen words of one variant, with the element each belongs to.
type Words = Vec<&'static str>;

/// The first word of every required element.
fn base(form: &Form) -> Words {
    form.elements.iter().filter(|e| e.required).map(|e| e.words[0].0).collect()
}

/// The base with element `at` showing word `word` (optional elements included).
fn with(form: &Form, at: usize, word: usize) -> Words {
    let shown = form.elements.iter().enumerate().filter(|(i, e)| e.required || *i == at);
    shown.map(|(i, e)| e.words[if i == at { word } else { 0 }].0).collect()
}

/// Every optional element at once.
fn everything(form: &Form) -> Words {
    form.elements.iter().map(|e| e.words[0].0).collect()
}

fn types(words: &Words) -> Vec<Type> {
    words.iter().filter_map(|w| Type::from_word(w)).collect()
}

fn wanted(pattern: &Pattern, types: &[Type]) -> Type {
    match pattern.ty {
        OperandType::Nth(n) => types.get(n as usize).copied().unwrap_or(Type::B32),
        OperandType::Fixed(ty) => ty,
        OperandType::Wide => match types[0] {
            Type::U16 => Type::U32,
            Type::S16 => Type::S32,
            Type::U32 => Type::U64,
            _ => Type::S64,
        },
    }
}

/// The prefix of registers with exactly this type, or of untyped ones where none can have it.
fn typed(ty: Type) -> &'static str {
    match ty {
        Type::Pred => "%p",
        Type::U16 => "%uh",
        Type::S16 => "%sh",
        Type::F16 => "%fh",
        Type::F16x2 => "%fx",
        Type::U32 => "%u",
        Type::S32 => "%s",
        Type::F32 => "%f",
        Type::U64 => "%ud",
        Type::S64 => "%sd",
        Type::F64 => "%fd",
        _ => untyped(ty),
    }
}

fn untyped(ty: Type) -> &'static str {
    match ty.bits() {
        1 if ty == Type::Pred => "%p",
        8 => "%b",
        16 => "%h",
        64 => "%rd",
        128 => "%q",
        _ => "%r",
    }
}

fn memory(words: &Words, first: bool, op: Opcode) -> String {
    let spaces: Vec<&str> = words
        .iter()
        .copied()
        .filter(|w| {
            ["global", "shared", "local", "const", "param"]
                .iter()
                .any(|s| w == s || w.starts_with(&format!("{s}::")))
        })
        .collect();
    let space = if first { spaces.first() } else { spaces.last() };
    match space.copied() {
        Some(s) if s.starts_with("shared") => "[%r1]".into(),
        Some("param::entry") => "[p0]".into(),
        Some("param") if op == Opcode::Ld => "[p0]".into(),
        Some(s) if s.starts_with("param") => "[pv]".into(),
        None if op == Opcode::Ldmatrix => "[%r1]".into(),
        _ => "[%rd1]".into(),
    }
}

/// The text of an operand; `prefix` gives the registers of a type.
fn operand(form: &Form, words: &Words, i: usize, prefix: fn(Type) -> &'static str) -> String {
    let pattern = &form.operands[i];
    let types = types(words);
    let ty = wanted(pattern, &types);
    let reg = |n: usize| format!("{}{n}", prefix(ty));
    let vector = |n: usize| format!("{{{}}}", (0..n).map(|k| reg(k + 1)).collect::<Vec<_>>().join(", "));
    let width = words.iter().find_map(|w| w.strip_prefix('v').and_then(|n| n.parse::<usize>().ok()));
    use OperandClass::*;
    match pattern.class {
        Memory => memory(words, i == 0, form.op),
        Constant => match form.op {
            Opcode::CpAsync => "16".into(),
            Opcode::Discard | Opcode::ApplyPriority => "128".into(),
            _ => "1".into(),
        },
        Pack | Unpack => match ty.bits() {
            16 => "{%b1, %b2}".into(),
            32 => "{%h1, %h2}".into(),
            64 => "{%r1, %r2}".into(),
            _ => "{%rd1, %rd2}".into(),
        },
        Label => "L".into(),
        Table => "ts".into(),
        Predicate | PredicateDestination => "%p1".into(),
        DestinationAndPredicate if form.op == Opcode::Lop3 && words.len() > 1 => format!("{}|%p2", reg(1)),
        _ => match (pattern.count, width) {
            (Count::Fixed(n), _) => vector(n as usize),
            (Count::Vector, Some(n)) => vector(n),
            _ => reg(i + 1),
        },
    }
}

fn instruction(form: &Form, words: &Words, operands: &[String]) -> String {
    let mut text = form.op.word().to_owned();
    for word in words {
        text.push_str(&format!(".{word}"));
    }
    if !operands.is_empty() {
        text.push_str(&format!(" {}", operands.join(", ")));
    }
    text + ";"
}

fn operands(form: &Form, words: &Words, prefix: fn(Type) -> &'static str) -> Vec<String> {
    (0..form.operands.len()).map(|i| operand(form, words, i, prefix)).collect()
}

/// Every instruction made from one row.
pub fn cases(form: &'static Form) -> Vec<Case> {
    let mut out = Vec::new();
    if form.op == Opcode::Call {
        return out;
    }
    let mut push = |words: &Words, operands: &[String], expected: Expected| {
        let since = since(form, words);
        // A row's own rule may forbid what its words allow.
        let expected =
            if since.is_none() && expected == Expected::Accept { Expected::Open } else { expected };
        let since = since.unwrap_or(form.row.since);
        out.push(Case { text: instruction(form, words, operands), expected, since });
    };
    let plain = base(form);
    for (at, element) in form.elements.iter().enumerate() {
        for word in 0..element.words.len() {
            let words = with(form, at, word);
            push(&words, &operands(form, &words, typed), Expected::Accept);
            push(&words, &operands(form, &words, untyped), Expected::Accept);
        }
    }
    let all = everything(form);
    push(&plain, &operands(form, &plain, typed), Expected::Accept);
    push(&all, &operands(form, &all, typed), Expected::Accept);
    neighbours(form, &plain, &mut push);
    out
}

/// When the words exist since; `None` when a rule of the row forbids them together.
fn since(form: &Form, words: &Words) -> Option<Since> {
    let mut all = vec![form.op.word()];
    all.extend(words.iter().copied());
    let split: Vec<&str> = all.iter().flat_map(|w| w.split('.')).collect();
    let version = ptx_vm::syntax::ast::Version { major: 99, minor: 0 };
    let target = ptx_vm::syntax::ast::Target { sm: 89, suffix: None, options: Vec::new() };
    let old = ptx_vm::syntax::ast::Target { sm: 60, ..target.clone() };
    let head = ptx_vm::check::head::resolve(&split, version, &target);
    let head = head.or_else(|_| ptx_vm::check::head::resolve(&split, version, &old)).ok()?;
    head.forms.iter().any(|f| std::ptr::eq(*f, form)).then(|| form.since_of(words)).flatten()
}

/// Variants one step away from the row.
fn neighbours(form: &Form, plain: &Words, push: &mut dyn FnMut(&Words, &[String], Expected)) {
    let right = operands(form, plain, untyped);
    // Operands too few and too many.
    let optional = form.operands.last().is_some_and(|p| p.optional);
    if let Some((_, fewer)) = right.split_last() {
        push(plain, fewer, if optional { Expected::Accept } else { Expected::Open });
    }
    if !matches!(form.op, Opcode::Bra) {
        let more = [right.as_slice(), &["%fd9x".to_owned()]].concat();
        push(plain, &more, Expected::Reject);
    }
    // Each operand as something else.
    for (i, pattern) in form.operands.iter().enumerate() {
        let ty = wanted(pattern, &types(plain));
        for other in [
            "%p8",
            "%b8",
            "%h8",
            "%uh8",
            "%fh8",
            "%fx8",
            "%r8",
            "%u8",
            "%f8",
            "%rd8",
            "%ud8",
            "%fd8",
            "5",
            "1.5",
            "0f3F800000",
            "_",
            "%tid.x",
            "sv",
            "!%p8",
        ] {
            let register = other.starts_with('%') && other != "%tid.x";
            let mut wrong = right.clone();
            wrong[i] = other.to_owned();
            let float = matches!(other, "%f8" | "%fd8" | "%fh8");
            let integer = matches!(ty.class(), Class::Signed | Class::Unsigned);
            let never = register
                && pattern.count == Count::Scalar
                && (float && integer)
                && !matches!(pattern.class, OperandClass::Memory | OperandClass::Name);
            push(plain, &wrong, if never { Expected::Reject } else { Expected::Open });
        }
    }
    // A required word missing.
    for (at, element) in form.elements.iter().enumerate().filter(|(_, e)| e.required) {
        let mut rest = form.elements.iter().enumerate().filter(|(i, e)| e.required && *i != at);
        let words: Words = rest.by_ref().map(|(_, e)| e.words[0].0).collect();
        let types_left = types(&words).len();
        if types_left > 0 || Type::from_word(element.words[0].0).is_none() {
            push(&words, &right, Expected::Open);
        }
    }
    // A word more.
    for extra in [
        "ftz",
        "sat",
        "rn",
        "rni",
        "approx",
        "relu",
        "satfinite",
        "NaN",
        "cc",
        "lo",
        "wide",
        "volatile",
        "relaxed",
        "gpu",
        "global",
        "shared",
        "sync",
        "aligned",
        "uni",
        "v2",
        "L2::128B",
        "ca",
        "f32",
        "u32",
        "f16",
        "bf16",
        "trans",
    ] {
        let mut words = plain.clone();
        let at = words.iter().position(|w| Type::from_word(w).is_some()).unwrap_or(words.len());
        words.insert(at, extra);
        push(&words, &right, Expected::Open);
    }
    // Another type in the first place.
    if let Some(at) = plain.iter().position(|w| Type::from_word(w).is_some()) {
        for &ty in Type::ALL {
            let mut words = plain.clone();
            words[at] = ty.word();
            let texts: Vec<String> =
                (0..form.operands.len()).map(|i| operand(form, &words, i, typed)).collect();
            push(&words, &texts, Expected::Open);
        }
    }
}
