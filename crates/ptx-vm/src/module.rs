//! Modules: compiled once, placed in a memory, launched from there.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::decode::program::{Constant, Program, function_address};
use crate::decode::{decode, param_offsets};
use crate::diagnostic::{Diagnostic, LoadError, Reason};
use crate::exec::context::Resolved;
use crate::exec::regs::Slot;
use crate::memory::{Memory, MemoryError, SHARED_WINDOW};
use crate::syntax::ast::{self, Formal, Function, FunctionKind, InitValue, Space, SymbolId, Type, Variable};

/// A checked and decoded module.
pub struct Module {
    name: String,
    source: String,
    tree: ast::Module,
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
    /// Where each shared variable that the kernel can reach lies: by function (or none) and variable.
    pub(crate) shared: HashMap<(Option<u32>, u32), u64>,
}

impl Module {
    /// Compiles PTX. `name` stands for the source in messages.
    ///
    /// # Errors
    /// Everything that is wrong, with its place, or the first instruction that this machine does not execute.
    pub fn compile(name: &str, source: &str) -> Result<Arc<Module>, LoadError> {
        let tree = crate::check::compile(name, source)?;
        let program = decode(&tree).map_err(|u| LoadError {
            file: name.into(),
            diagnostics: vec![Diagnostic {
                reason: Reason::Unsupported,
                span: ast::Span { line: u.line, column: u.column },
                message: u.what,
                text: source.lines().nth(u.line.saturating_sub(1) as usize).unwrap_or("").trim().into(),
            }],
        })?;
        let entry = |(i, f): (usize, &Function)| {
            (f.kind == FunctionKind::Entry && f.body.is_some()).then(|| kernel(&tree, &program, i as u32))
        };
        let kernels = tree.functions.iter().enumerate().filter_map(entry).collect();
        Ok(Arc::new(Module { name: name.into(), source: source.into(), program, kernels, tree }))
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

fn kernel(tree: &ast::Module, program: &Program, function: u32) -> Kernel {
    let f = &tree.functions[function as usize];
    let (offsets, param_bytes) = param_offsets(f);
    let param = |(p, offset): (&Formal, u64)| {
        let Formal::Param(i) = p else { return None };
        let v = &f.variables[*i as usize];
        let (size, align) = (v.bytes as usize, v.align as usize);
        Some(Param { name: v.name.clone(), offset: offset as usize, size, align })
    };
    let params = f.params.iter().zip(offsets).filter_map(param).collect();
    let functions = reachable(program, function);
    let (shared, static_shared) = place_shared(tree, program, &functions);
    let d = &f.directives;
    Kernel {
        name: f.name.clone(),
        params,
        param_bytes: param_bytes as usize,
        static_shared,
        local_bytes: local_bytes(program, function, &mut Vec::new()),
        registers: crate::decode::live_registers(f),
        max_threads: d.max_threads.map(|[x, y, z]| x.max(1) * y.max(1) * z.max(1)),
        required_block: d.required_block.map(|b| b.map(|n| n.max(1))),
        function,
        shared,
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

/// Gives each shared variable mentioned by `functions` a place: sized ones first, then, all at the same place, the
/// `.extern` ones of the launch's dynamic memory.
fn place_shared(
    tree: &ast::Module,
    program: &Program,
    functions: &[u32],
) -> (HashMap<(Option<u32>, u32), u64>, usize) {
    let constants = functions.iter().flat_map(|&f| program.frames[f as usize].constants.iter());
    let mut used = BTreeSet::new();
    for (_, c) in constants {
        match c {
            Constant::SharedModule { variable, .. } => used.insert((None, *variable)),
            Constant::SharedLocal { function, variable, .. } => used.insert((Some(*function), *variable)),
            _ => false,
        };
    }
    let variable = |key: &(Option<u32>, u32)| -> &Variable {
        match key.0 {
            None => &tree.variables[key.1 as usize],
            Some(f) => &tree.functions[f as usize].variables[key.1 as usize],
        }
    };
    let dynamic = |v: &Variable| v.linkage == ast::Linkage::Extern || v.bytes == 0;
    let (mut places, mut at) = (HashMap::new(), 0u64);
    for key in used.iter().filter(|k| !dynamic(variable(k))) {
        let v = variable(key);
        at = at.next_multiple_of(v.align.max(1));
        places.insert(*key, at);
        at += v.bytes;
    }
    let align = used.iter().map(variable).filter(|v| dynamic(v)).map(|v| v.align.max(16)).max();
    let start = align.map_or(at, |a| at.next_multiple_of(a));
    for key in used.iter().filter(|k| dynamic(variable(k))) {
        places.insert(*key, start);
    }
    (places, start as usize)
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
        let variables = loaded.variables();
        for (key, v) in &variables {
            match memory.alloc((v.bytes as usize).max(1), (v.align as usize).max(1)) {
                Ok(addr) => loaded.globals.insert(*key, addr),
                Err(e) => {
                    loaded.unload(memory);
                    return Err(e);
                }
            };
        }
        for (key, v) in &variables {
            let addr = loaded.globals[key];
            let mut image = vec![0u8; (v.bytes as usize).max(1)];
            for (element, value) in v.init.iter().flat_map(|i| &i.values) {
                let (size, bits) = (v.ty.bytes(), loaded.initial(key.0, *value));
                let at = *element as usize * size;
                if let Some(to) = image.get_mut(at..at + size) {
                    let n = size.min(8);
                    to[..n].copy_from_slice(&bits.to_le_bytes()[..n]);
                }
            }
            memory.write(addr, &image)?;
        }
        Ok(loaded)
    }

    /// Variables in global or constant memory.
    fn variables(&self) -> Vec<((Option<u32>, u32), Variable)> {
        let tree = &self.module.tree;
        let global =
            |v: &Variable| matches!(v.space.base(), Space::Global | Space::Const) && v.ty != Type::Pred;
        let outer = tree.variables.iter().enumerate().map(|(i, v)| ((None, i as u32), v));
        let inner = tree.functions.iter().enumerate().flat_map(|(f, x)| {
            x.variables.iter().enumerate().map(move |(i, v)| ((Some(f as u32), i as u32), v))
        });
        outer.chain(inner).filter(|(_, v)| global(v)).map(|(k, v)| (k, v.clone())).collect()
    }

    fn initial(&self, function: Option<u32>, value: InitValue) -> u64 {
        match value {
            InitValue::Bits(b) => b,
            InitValue::Address { symbol, offset, generic, shift } => {
                let base = match symbol {
                    SymbolId::Function(f) => function_address(f.0),
                    SymbolId::Module(v) => match self.globals.get(&(None, v)) {
                        Some(addr) => *addr,
                        // The address of a shared variable: its place in the kernels that use it.
                        None => {
                            let place = self.module.kernels.iter().find_map(|k| k.shared.get(&(None, v)));
                            place.copied().unwrap_or(0) + if generic { SHARED_WINDOW } else { 0 }
                        }
                    },
                    SymbolId::Local(v) => self.globals.get(&(function, v)).copied().unwrap_or(0),
                };
                base.wrapping_add_signed(offset) >> shift
            }
        }
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
            Constant::SharedModule { variable, offset } => {
                Resolved::Bits(add(kernel.shared.get(&(None, variable)), offset))
            }
            Constant::SharedLocal { function, variable, offset } => {
                Resolved::Bits(add(kernel.shared.get(&(Some(function), variable)), offset))
            }
            Constant::Local { offset } => Resolved::Local(offset),
        };
        let frames = self.module.program.frames.iter();
        frames.map(|f| f.constants.iter().map(|(slot, c)| (*slot, resolve(c))).collect()).collect()
    }
}
