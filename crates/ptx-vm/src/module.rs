//! Modules: compiled once, placed in a memory, launched from there.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::decode::decode;
use crate::decode::program::{Constant, Program, function_address};
use crate::diagnostic::{Diagnostic, LoadError, Reason};
use crate::exec::context::Resolved;
use crate::exec::regs::Slot;
use crate::layout::{Layout, Place, layout};
use crate::memory::{Memory, MemoryError, SHARED_WINDOW};
use crate::syntax::ast::{self, Formal, Function, FunctionId, FunctionKind, Space, SymbolId};

/// A checked and decoded module.
pub struct Module {
    name: String,
    source: String,
    tree: ast::Module,
    layout: Layout,
    pub(crate) program: Program,
    kernels: Vec<Kernel>,
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// As written.
    pub name: String,
    /// Bytes from the start of the packed image.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// What a launch of an entry needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The entry's name.
    pub name: String,
    /// In order.
    pub params: Vec<Param>,
    /// Bytes of the packed image of all parameters.
    pub param_bytes: usize,
    /// Bytes of shared memory declared with a size.
    pub static_shared: usize,
    /// Bytes of local memory of a thread, calls included as far as they do not recurse.
    pub local_bytes: usize,
    /// 32-bit registers that are live at once at most: a prediction of what an assembler needs.
    pub registers: u32,
    /// Upper bound of the threads of a block (`.maxntid`).
    pub max_threads: Option<u32>,
    /// The exact block (`.reqntid`).
    pub required_block: Option<[u32; 3]>,
    /// Index of the function in the module.
    pub(crate) function: u32,
    /// Where dynamic shared memory begins.
    pub(crate) dynamic_shared: u64,
}

impl Module {
    /// Compiles PTX. `name` stands for the source in messages.
    ///
    /// # Errors
    /// Everything that is wrong, with its place, or the first instruction that this machine does not execute.
    pub fn compile(name: &str, source: &str) -> Result<Arc<Module>, LoadError> {
        let tree = crate::check::compile(name, source)?;
        let layout = layout(&tree)?;
        let program = decode(&tree, &layout).map_err(|u| LoadError {
            file: name.into(),
            diagnostics: vec![Diagnostic {
                reason: Reason::Unsupported,
                span: ast::Span { line: u.line, column: u.column },
                message: u.what,
                text: source.lines().nth(u.line.saturating_sub(1) as usize).unwrap_or("").trim().into(),
            }],
        })?;
        let entry = |(i, f): (usize, &Function)| {
            (f.kind == FunctionKind::Entry && f.body.is_some())
                .then(|| kernel(&tree, &layout, &program, i as u32))
        };
        let kernels = tree.functions.iter().enumerate().filter_map(entry).collect();
        Ok(Arc::new(Module { name: name.into(), source: source.into(), program, kernels, tree, layout }))
    }

    /// The name used in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The entries, in the order of the source.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }

    /// An entry by name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }

    /// 80 for `sm_80`.
    pub fn target_sm(&self) -> u32 {
        self.tree.target.sm
    }

    /// Whether blocks of a kernel can notice each other's writes.
    pub(crate) fn communicates(&self, kernel: &Kernel) -> bool {
        let functions = reachable(&self.program, kernel.function);
        functions.iter().any(|&f| self.program.frames[f as usize].communicates)
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }
}

/// Functions that a kernel can reach: all of them when it calls through pointers.
fn reachable(program: &Program, entry: u32) -> Vec<u32> {
    let mut seen = BTreeSet::from([entry]);
    let mut todo = vec![entry];
    while let Some(f) = todo.pop() {
        let frame = &program.frames[f as usize];
        let all = 0..program.frames.len() as u32;
        let next: Vec<u32> = if frame.indirect {
            all.filter(|&g| !program.frames[g as usize].entry).collect()
        } else {
            frame.callees.clone()
        };
        todo.extend(next.into_iter().filter(|g| seen.insert(*g)));
    }
    seen.into_iter().collect()
}

fn kernel(tree: &ast::Module, layout: &Layout, program: &Program, function: u32) -> Kernel {
    let f = &tree.functions[function as usize];
    let places = &layout.functions[function as usize];
    let entry = places.entry.unwrap_or_default();
    let param = |p: &Formal| {
        let Formal::Param(i) = p else { return None };
        let (v, place) = (&f.variables[*i as usize], &places.places[*i as usize]);
        let (offset, size) = (place.offset as usize, place.bytes as usize);
        Some(Param { name: v.name.clone(), offset, size, align: place.align as usize })
    };
    let constants =
        reachable(program, function).into_iter().flat_map(|f| &program.frames[f as usize].constants);
    let dynamic = constants.into_iter().any(|(_, c)| matches!(c, Constant::DynamicShared { .. }));
    let shared = if dynamic { entry.dynamic_shared } else { entry.static_shared };
    let d = &f.directives;
    Kernel {
        name: f.name.clone(),
        params: f.params.iter().filter_map(param).collect(),
        param_bytes: entry.param_bytes as usize,
        static_shared: shared as usize,
        local_bytes: local_bytes(program, function, &mut Vec::new()),
        registers: program.frames[function as usize].registers,
        max_threads: d.max_threads.map(|[x, y, z]| x.max(1) * y.max(1) * z.max(1)),
        required_block: d.required_block.map(|b| b.map(|n| n.max(1))),
        function,
        dynamic_shared: entry.dynamic_shared,
    }
}

fn local_bytes(program: &Program, function: u32, path: &mut Vec<u32>) -> usize {
    if path.contains(&function) {
        return 0;
    }
    path.push(function);
    let frame = &program.frames[function as usize];
    let deepest = frame.callees.iter().map(|&c| local_bytes(program, c, path)).max().unwrap_or(0);
    path.pop();
    frame.local_bytes as usize + deepest
}

/// A module placed in a memory: its globals and constants are allocated and hold their initial values.
pub struct Loaded {
    module: Arc<Module>,
    /// Address of each module variable in global memory, and of those inside functions.
    globals: HashMap<(Option<u32>, u32), u64>,
}

impl Loaded {
    /// Allocates and initialises the module's variables.
    ///
    /// # Errors
    /// When the memory is too small for them; nothing stays allocated then.
    pub fn new(module: &Arc<Module>, memory: &Memory) -> Result<Loaded, MemoryError> {
        let mut loaded = Loaded { module: module.clone(), globals: HashMap::new() };
        // The variables by their places in the two regions of the layout. Each gets a block of its own, so that an
        // access past the end of one does not hit the next.
        let mut regions = [Vec::new(), Vec::new()];
        for (key, space, place) in loaded.variables() {
            let bytes = (place.bytes as usize).max(1);
            let placed = memory.alloc(bytes, (place.align as usize).max(1));
            match placed.and_then(|addr| memory.fill(addr, &[0], bytes).map(|()| addr)) {
                Ok(addr) => {
                    loaded.globals.insert(key, addr);
                    if place.bytes > 0 {
                        regions[usize::from(space == Space::Const)].push((place.offset, addr));
                    }
                }
                Err(e) => {
                    loaded.unload(memory);
                    return Err(e);
                }
            }
        }
        for (starts, region) in regions.iter_mut().zip([&module.layout.global, &module.layout.constant]) {
            starts.sort_unstable();
            let address = |at: u64| {
                let (offset, addr) = starts[starts.partition_point(|s| s.0 <= at) - 1];
                addr + (at - offset)
            };
            for (at, bytes) in &region.pieces {
                memory.write(address(*at), bytes)?;
            }
            for r in &region.relocations {
                let value = loaded.address(r.function, r.symbol, r.generic).wrapping_add_signed(r.addend);
                let bytes = (value >> r.shift).to_le_bytes();
                memory.write(address(r.at), &bytes[..r.bytes as usize])?;
            }
        }
        Ok(loaded)
    }

    /// Variables in global or constant memory: key, space, place in the region of the space.
    fn variables(&self) -> Vec<((Option<u32>, u32), Space, Place)> {
        let (tree, layout) = (&self.module.tree, &self.module.layout);
        let outer = tree.variables.iter().zip(&layout.places).enumerate();
        let outer = outer.map(|(i, (v, p))| ((None, i as u32), v.space.base(), *p));
        let inner = tree.functions.iter().zip(&layout.functions).enumerate().flat_map(|(f, (x, l))| {
            let places = x.variables.iter().zip(&l.places).enumerate();
            places.map(move |(i, (v, p))| ((Some(f as u32), i as u32), v.space.base(), *p))
        });
        outer.chain(inner).filter(|(_, space, _)| matches!(space, Space::Global | Space::Const)).collect()
    }

    /// The address that a symbol has in an initial value.
    fn address(&self, function: Option<FunctionId>, symbol: SymbolId, generic: bool) -> u64 {
        let (key, place) = match symbol {
            SymbolId::Function(f) => return function_address(f.0),
            SymbolId::Module(v) => ((None, v), self.module.layout.places.get(v as usize)),
            SymbolId::Local(v) => ((function.map(|f| f.0), v), None),
        };
        // A variable that is not in global memory is in shared memory.
        let shared = || place.map_or(0, |p| p.offset) + if generic { SHARED_WINDOW } else { 0 };
        self.globals.get(&key).copied().unwrap_or_else(shared)
    }

    /// Address and size in bytes of a module variable in global or constant memory.
    pub fn global(&self, name: &str) -> Option<(u64, usize)> {
        let at = self.module.tree.variables.iter().position(|v| v.name == name)?;
        let addr = self.globals.get(&(None, at as u32))?;
        Some((*addr, self.module.tree.variables[at].bytes as usize))
    }

    /// The module.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Frees the variables.
    pub fn unload(self, memory: &Memory) {
        for addr in self.globals.into_values() {
            // A block that the client freed by hand is gone already.
            let _ = memory.free(addr);
        }
    }

    /// The constant rows of all functions for one kernel.
    pub(crate) fn constants(&self, kernel: &Kernel) -> Vec<Vec<(Slot, Resolved)>> {
        let add = |base: Option<&u64>, offset: i64| base.copied().unwrap_or(0).wrapping_add_signed(offset);
        let resolve = |c: &Constant| match *c {
            Constant::Bits(b) => Resolved::Bits(b),
            Constant::Global { variable, offset } => {
                Resolved::Bits(add(self.globals.get(&(None, variable)), offset))
            }
            Constant::GlobalLocal { function, variable, offset } => {
                Resolved::Bits(add(self.globals.get(&(Some(function), variable)), offset))
            }
            Constant::DynamicShared { offset } => {
                Resolved::Bits(kernel.dynamic_shared.wrapping_add_signed(offset))
            }
            Constant::Local { offset } => Resolved::Local(offset),
        };
        let frames = self.module.program.frames.iter();
        frames.map(|f| f.constants.iter().map(|(slot, c)| (*slot, resolve(c))).collect()).collect()
    }
}
