//! Where everything lies: parameters, shared and local variables, globals and constants with their first bytes.
use crate::diagnostic::{Diagnostic, LoadError, Reason};
use crate::syntax::ast::*;
use std::collections::BTreeMap;

/// Static shared memory of a block without an opt-in, in bytes (compute capability 5.0 to 9.0).
pub const STATIC_SHARED_LIMIT: u64 = 48 << 10;
/// All constants of a module, in bytes.
pub const CONST_LIMIT: u64 = 64 << 10;
/// Local memory of one thread, in bytes (compute capability 5.0 and later).
pub const LOCAL_LIMIT: u64 = 512 << 10;

/// The place of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the start of its region: the global image, the constant bank, the block's shared memory, the
    /// function's frame of local memory, or its frame of parameters. For [`Place::dynamic`] ones, 0: they start
    /// where the kernel's static shared memory ends ([`EntryLayout::dynamic_shared`]).
    pub offset: u64,
    /// Size in bytes; 0 for dynamic shared memory.
    pub bytes: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// `.extern .shared x[]`
    pub dynamic: bool,
}

/// An address inside an initial image that is known only when the module is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Where in the image.
    pub at: u64,
    /// Width in bytes: 1, 4 or 8.
    pub bytes: u8,
    /// Of what.
    pub symbol: SymbolId,
    /// Plus this many bytes.
    pub addend: i64,
    /// The generic address rather than the one inside the space.
    pub generic: bool,
    /// The address is shifted right by this many bits first.
    pub shift: u32,
    /// The function whose [`SymbolId::Local`] the symbol is; `None` at module scope.
    pub function: Option<FunctionId>,
}

/// A region that is allocated once per loaded module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Size in bytes.
    pub bytes: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// Initial contents in pieces (offset, bytes); everything else is zero.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Addresses to fill in.
    pub relocations: Vec<Relocation>,
}

/// The places of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionLayout {
    /// One per [`Function::variables`].
    pub places: Vec<Place>,
    /// Bytes of the frame of local memory that its `.local` variables take.
    pub local_bytes: u64,
    /// Bytes of the frame of `.param` variables: parameters first (for an entry: exactly the launch's image), then
    /// return values, then those declared in the body.
    pub param_frame: u64,
    /// What only entries have.
    pub entry: Option<EntryLayout>,
}

/// The sizes a launch needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryLayout {
    /// Bytes of parameters.
    pub param_bytes: u64,
    /// Bytes of static shared memory of everything that can be reached from here.
    pub static_shared: u64,
    /// Where dynamic shared memory starts: the end of the static part, aligned.
    pub dynamic_shared: u64,
}

/// The places of a whole module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// One per [`Module::variables`].
    pub places: Vec<Place>,
    /// One per [`Module::functions`].
    pub functions: Vec<FunctionLayout>,
    /// `.global` variables.
    pub global: Region,
    /// `.const` variables.
    pub constant: Region,
}

fn align_up(offset: u64, align: u64) -> u64 {
    offset.next_multiple_of(align.max(1))
}

/// Bytes of a function's parameters and the offset of each, in order.
pub fn parameters(function: &Function) -> (u64, Vec<u64>) {
    let mut end = 0;
    let mut offsets = Vec::new();
    for formal in &function.params {
        if let Formal::Param(i) = formal {
            let v = &function.variables[*i as usize];
            end = align_up(end, v.align);
            offsets.push(end);
            end += v.bytes;
        }
    }
    (end, offsets)
}

/// Gives every variable its place.
///
/// # Errors
/// Too much static shared, constant or local memory.
pub fn layout(module: &Module) -> Result<Layout, LoadError> {
    let mut out = Layout::default();
    out.global.align = 256;
    out.constant.align = 256;
    for v in &module.variables {
        let place = place_static(&mut out, v, None);
        out.places.push(place);
    }
    for (i, function) in module.functions.iter().enumerate() {
        let places = frame(&mut out, function, FunctionId(i as u32));
        out.functions.push(places);
    }
    let shared = Shared::new(module);
    shared.place(module, &mut out);
    let diagnostics = over_limit(module, &out);
    match diagnostics.is_empty() {
        true => Ok(out),
        false => Err(LoadError { file: module.name.clone(), diagnostics }),
    }
}

fn over_limit(module: &Module, layout: &Layout) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let mut report = |span, what: &str, bytes: u64, limit: u64| {
        if bytes > limit {
            let message = format!("{what} takes {bytes} bytes; the limit is {limit}");
            diagnostics.push(Diagnostic { reason: Reason::Limit, span, message, text: String::new() });
        }
    };
    report(Span { line: 1, column: 1 }, "constant memory of the module", layout.constant.bytes, CONST_LIMIT);
    for (function, places) in module.functions.iter().zip(&layout.functions) {
        report(
            function.span,
            &format!("local memory of `{}`", function.name),
            places.local_bytes,
            LOCAL_LIMIT,
        );
        if let Some(entry) = places.entry {
            let what = format!("static shared memory of `{}`", function.name);
            report(function.span, &what, entry.static_shared, STATIC_SHARED_LIMIT);
        }
    }
    diagnostics
}

/// A variable of module lifetime: global or constant. Shared ones are placed later, all together.
fn place_static(out: &mut Layout, v: &Variable, function: Option<FunctionId>) -> Place {
    let dynamic = v.space == Space::Shared && v.linkage == Linkage::Extern && v.bytes == 0;
    let mut place = Place { offset: 0, bytes: v.bytes, align: v.align, dynamic };
    let region = match v.space {
        Space::Global => &mut out.global,
        Space::Const => &mut out.constant,
        _ => return place,
    };
    place.offset = align_up(region.bytes, v.align);
    region.align = region.align.max(v.align);
    region.bytes = place.offset + v.bytes;
    if let Some(init) = &v.init {
        initialize(region, v, init, place.offset, function);
    }
    place
}

/// Bytes and relocations of an initialised variable.
fn initialize(
    region: &mut Region,
    v: &Variable,
    init: &Initializer,
    offset: u64,
    function: Option<FunctionId>,
) {
    // Contiguous runs only: what lies between far apart values costs nothing.
    const GAP: u64 = 64;
    let width = v.ty.bytes();
    let mut piece: (u64, Vec<u8>) = (offset, Vec::new());
    for &(index, value) in &init.values {
        let at = offset + index * width as u64;
        match value {
            InitValue::Bits(bits) => {
                if at > piece.0 + piece.1.len() as u64 + GAP {
                    region.pieces.push(std::mem::replace(&mut piece, (at, Vec::new())));
                }
                piece.1.resize((at - piece.0) as usize, 0);
                piece.1.extend(&bits.to_le_bytes()[..width]);
            }
            InitValue::Address { symbol, offset: addend, generic, shift } => {
                let bytes = width as u8;
                region.relocations.push(Relocation { at, bytes, symbol, addend, generic, shift, function });
            }
        }
    }
    if !piece.1.is_empty() {
        region.pieces.push(piece);
    }
}

/// The frame of one function: parameters, return values, locals.
fn frame(out: &mut Layout, function: &Function, id: FunctionId) -> FunctionLayout {
    let mut frame = FunctionLayout::default();
    let (mut param, _) = parameters(function);
    // Parameters come first in the table, so their offsets follow from the running sum again.
    let mut running = 0u64;
    let mut is_param = vec![false; function.variables.len()];
    for formal in &function.params {
        if let Formal::Param(i) = formal {
            is_param[*i as usize] = true;
        }
    }
    for (i, v) in function.variables.iter().enumerate() {
        let mut place = place_static(out, v, Some(id));
        let end = match v.space {
            Space::Local => &mut frame.local_bytes,
            Space::Param if is_param[i] => &mut running,
            Space::Param => &mut param,
            _ => {
                frame.places.push(place);
                continue;
            }
        };
        place.offset = align_up(*end, v.align);
        *end = place.offset + v.bytes;
        frame.places.push(place);
    }
    frame.local_bytes = align_up(frame.local_bytes, 16);
    frame.param_frame = align_up(param, 16);
    if function.kind == FunctionKind::Entry && function.body.is_some() {
        frame.entry = Some(EntryLayout { param_bytes: running, ..EntryLayout::default() });
    }
    frame
}

/// Which shared variables each entry can reach. A variable has one offset in the whole module, so that code shared by
/// two kernels needs no patching; it only has to avoid the variables that share a kernel with it.
struct Shared {
    /// Per entry: the shared variables it reaches, as (function or `None` for the module, index).
    reached: Vec<(usize, Vec<Key>)>,
}

type Key = (Option<usize>, u32);

impl Shared {
    fn new(module: &Module) -> Shared {
        let mentions: Vec<Mentions> = (0..module.functions.len()).map(|f| mentions(module, f)).collect();
        // Any function whose address is taken may be called indirectly from anywhere.
        let taken: Vec<usize> = mentions
            .iter()
            .flat_map(|m| m.addresses.iter().copied())
            .chain(initial_addresses(module))
            .collect();
        let reached = module
            .functions
            .iter()
            .enumerate()
            .filter(|(_, f)| f.kind == FunctionKind::Entry && f.body.is_some());
        let reached = reached.map(|(entry, _)| (entry, reach(entry, &mentions, &taken))).collect();
        Shared { reached }
    }

    fn place(&self, module: &Module, out: &mut Layout) {
        // In order of declaration, each variable starts at the highest end of the kernels that it shares.
        let mut kernels: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (k, (_, keys)) in self.reached.iter().enumerate() {
            for key in keys {
                kernels.entry(*key).or_default().push(k);
            }
        }
        let mut ends = vec![0u64; self.reached.len()];
        for (key, in_kernels) in &kernels {
            let v = variable(module, *key);
            let highest = in_kernels.iter().map(|&k| ends[k]).max().unwrap_or(0);
            if v.bytes == 0 {
                continue;
            }
            let offset = align_up(highest, v.align);
            in_kernels.iter().for_each(|&k| ends[k] = offset + v.bytes);
            let place = match key.0 {
                None => &mut out.places[key.1 as usize],
                Some(f) => &mut out.functions[f].places[key.1 as usize],
            };
            place.offset = offset;
        }
        for ((entry, keys), end) in self.reached.iter().zip(ends) {
            let align =
                keys.iter().map(|key| variable(module, *key)).filter(|v| v.bytes == 0).map(|v| v.align).max();
            if let Some(layout) = &mut out.functions[*entry].entry {
                layout.static_shared = end;
                layout.dynamic_shared = align_up(end, align.unwrap_or(1).max(16));
            }
        }
    }
}

fn variable(module: &Module, key: Key) -> &Variable {
    match key.0 {
        None => &module.variables[key.1 as usize],
        Some(f) => &module.functions[f].variables[key.1 as usize],
    }
}

/// What one function mentions.
#[derive(Default)]
struct Mentions {
    shared: Vec<Key>,
    calls: Vec<usize>,
    addresses: Vec<usize>,
    indirect: bool,
}

fn mentions(module: &Module, index: usize) -> Mentions {
    let mut out = Mentions::default();
    let function = &module.functions[index];
    let add = |symbol: SymbolId, out: &mut Mentions| match symbol {
        SymbolId::Module(i) if module.variables[i as usize].space == Space::Shared => {
            out.shared.push((None, i))
        }
        SymbolId::Local(i) if function.variables[i as usize].space == Space::Shared => {
            out.shared.push((Some(index), i))
        }
        SymbolId::Function(id) => out.addresses.push(id.0 as usize),
        _ => {}
    };
    for instr in function.body.iter().flat_map(|b| &b.instrs) {
        for operand in &instr.operands {
            match &operand.kind {
                OperandKind::Symbol { symbol, .. }
                | OperandKind::Memory { base: Base::Symbol(symbol), .. } => {
                    add(*symbol, &mut out);
                }
                _ => {}
            }
        }
        match instr.call.as_deref().map(|c| &c.target) {
            Some(CallTarget::Direct(id)) => out.calls.push(id.0 as usize),
            Some(CallTarget::Indirect { candidates: Some(list), .. }) => {
                out.calls.extend(list.iter().map(|id| id.0 as usize))
            }
            Some(CallTarget::Indirect { .. }) => out.indirect = true,
            None => {}
        }
    }
    out.shared.sort_unstable();
    out.shared.dedup();
    out
}

/// Functions whose addresses stand in initial values.
fn initial_addresses(module: &Module) -> impl Iterator<Item = usize> + '_ {
    let variables = module.variables.iter().chain(module.functions.iter().flat_map(|f| &f.variables));
    variables.filter_map(|v| v.init.as_ref()).flat_map(|init| &init.values).filter_map(|(_, value)| {
        match value {
            InitValue::Address { symbol: SymbolId::Function(id), .. } => Some(id.0 as usize),
            _ => None,
        }
    })
}

/// Shared variables that can be reached from an entry through calls.
fn reach(entry: usize, mentions: &[Mentions], taken: &[usize]) -> Vec<Key> {
    let mut seen = vec![false; mentions.len()];
    let mut todo = vec![entry];
    let mut keys = Vec::new();
    while let Some(f) = todo.pop() {
        if std::mem::replace(&mut seen[f], true) {
            continue;
        }
        keys.extend(&mentions[f].shared);
        todo.extend(&mentions[f].calls);
        if mentions[f].indirect {
            todo.extend(taken);
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}
