//! Entries, functions, prototypes and the statements of a body.
use super::{Failed, Parser, Token};
use crate::diagnostic::Reason;
use crate::syntax::ast::{
    Body, Directives, Formal, Function, FunctionId, FunctionKind, Linkage, OperandKind, Pointee, Signature,
    Space, Type, Variable,
};
use crate::syntax::lexer::Kind;
use crate::syntax::limits;
use crate::syntax::scope::{Entity, Scope};

impl<'s> Parser<'s> {
    /// `.entry name (params) directives { body }` or `.func (returns) name (params) directives { body }`.
    pub(super) fn function(&mut self, kind: FunctionKind, linkage: Linkage) -> Result<(), Failed> {
        self.function = Some(Function {
            name: String::new(),
            kind,
            linkage,
            params: Vec::new(),
            returns: Vec::new(),
            directives: Directives::default(),
            registers: Vec::new(),
            variables: Vec::new(),
            prototypes: Vec::new(),
            body: None,
            span: self.token.span,
        });
        self.scopes.push(Scope::default());
        self.branch_tables.clear();
        self.call_targets.clear();
        self.table_uses.clear();
        if kind == FunctionKind::Func && self.at(b'(') {
            let returns = self.formals()?;
            if returns.len() > 1 && returns.iter().any(|r| matches!(r, Formal::Param(_))) {
                let message = "several return values are .reg; or pack them into one .param array".into();
                return self.fail(Reason::Invalid, message);
            }
            self.building().returns = returns;
        }
        let name = self.token;
        let text = self.identifier("a function's name")?;
        self.building().name = text.to_owned();
        self.building().span = name.span;
        if self.at(b'(') {
            let params = self.formals()?;
            self.building().params = params;
        }
        self.tuning()?;
        let prototype = self.eat(b';');
        let id = self.enter_name(name, prototype)?;
        if !prototype {
            self.body()?;
        }
        self.scopes.truncate(1);
        if let Some(function) = self.function.take() {
            let slot = &mut self.module.functions[id.0 as usize];
            // A repeated prototype adds nothing; a definition replaces its prototype.
            if function.body.is_some() || slot.body.is_none() {
                *slot = function;
            }
        }
        Ok(())
    }

    /// The function under construction.
    pub(super) fn building(&mut self) -> &mut Function {
        self.function.as_mut().expect("only called between the head of a function and its end")
    }

    /// Makes the name known before the body, which may call it, and holds it against an earlier prototype.
    fn enter_name(&mut self, token: Token, prototype: bool) -> Result<FunctionId, Failed> {
        let name = self.text(token);
        let Some(function) = &self.function else { return Err(Failed) };
        let twice = |what: &str| format!("`{name}` is {what}");
        match self.scopes[0].names.get(name).copied() {
            None => {
                let prototype = Function { body: None, ..function.clone() };
                self.module.functions.push(prototype);
                let id = FunctionId(self.module.functions.len() as u32 - 1);
                self.scopes[0].insert(name, Entity::Function(id));
                Ok(id)
            }
            Some(Entity::Function(id)) => {
                let earlier = &self.module.functions[id.0 as usize];
                if earlier.body.is_some() {
                    return self.fail_at(token, Reason::Invalid, twice("defined twice"));
                }
                if earlier.kind != function.kind || !self.same_signature(earlier, function) {
                    return self.fail_at(
                        token,
                        Reason::Invalid,
                        twice("declared before with another signature"),
                    );
                }
                if !prototype && (earlier.linkage == Linkage::Extern) != (function.linkage == Linkage::Extern)
                {
                    return self.fail_at(
                        token,
                        Reason::Invalid,
                        twice("declared .extern before and defined here"),
                    );
                }
                Ok(id)
            }
            Some(_) => self.fail_at(token, Reason::Invalid, twice("declared before as something else")),
        }
    }

    /// Whether two declarations agree on parameters and return values.
    pub(super) fn same_signature(&self, a: &Function, b: &Function) -> bool {
        let signatures = |f: &Function, formals: &[Formal]| -> Vec<Signature> {
            formals.iter().map(|&formal| f.signature(formal)).collect()
        };
        signatures(a, &a.params) == signatures(b, &b.params)
            && signatures(a, &a.returns) == signatures(b, &b.returns)
    }

    /// `(.param .b32 a, .reg .u64 b)`: declares each in the function's scope.
    fn formals(&mut self) -> Result<Vec<Formal>, Failed> {
        self.expect(b'(')?;
        let mut formals = Vec::new();
        while !self.at(b')') {
            let formal = self.formal()?;
            formals.push(formal);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(formals)
    }

    fn formal(&mut self) -> Result<Formal, Failed> {
        let at = self.token;
        let entry = self.building().kind == FunctionKind::Entry;
        match self.dot() {
            Some("reg") if !entry => {
                self.advance();
                let shape = self.shape()?;
                let token = self.token;
                let name = self.identifier("a parameter's name")?;
                if shape.vector > 1 {
                    return self.fail_at(
                        token,
                        Reason::Invalid,
                        "a parameter cannot be a vector register".into(),
                    );
                }
                let reg = self.new_registers(name, shape.ty, 1);
                self.declare(token, Entity::Register { ty: shape.ty, vector: 1, first: Some(reg) })?;
                Ok(Formal::Reg(reg))
            }
            Some("param") => {
                self.advance();
                let mut variable = self.param()?;
                let token = self.token;
                variable.name = self.identifier("a parameter's name")?.to_owned();
                variable.span = token.span;
                if variable.name == "_" {
                    return self.fail_at(
                        token,
                        Reason::Invalid,
                        "a function's parameter needs a name".into(),
                    );
                }
                self.param_size(token, &mut variable, entry)?;
                let symbol = self.add_variable(variable);
                self.declare(token, Entity::Variable(symbol))?;
                Ok(Formal::Param(self.building().variables.len() as u32 - 1))
            }
            _ => self.fail_at(
                at,
                Reason::Invalid,
                format!("{} is no parameter of this function", self.describe(at)),
            ),
        }
    }

    /// `.align 8 .b8`, `.u64 .ptr .global .align 16`: all of a `.param` but its name, array size and place.
    pub(super) fn param(&mut self) -> Result<Variable, Failed> {
        let at = self.token;
        let shape = self.shape()?;
        if shape.ty == Type::Pred || shape.ty == Type::F16x2 || shape.vector > 1 || shape.managed {
            return self.fail_at(
                at,
                Reason::Invalid,
                "this type cannot be passed in the parameter space".into(),
            );
        }
        let mut pointee = None;
        if self.eat_dot("ptr") {
            let mut to = Pointee { space: None, align: 4 };
            if let Some(space) = self
                .dot()
                .and_then(Space::from_word)
                .filter(|s| matches!(s, Space::Const | Space::Global | Space::Local | Space::Shared))
            {
                to.space = Some(space);
                self.advance();
            }
            if self.eat_dot("align") {
                let at = self.token;
                to.align = self.number("the alignment")?;
                if !to.align.is_power_of_two() {
                    return self.fail_at(at, Reason::Invalid, "an alignment is a power of two".into());
                }
            }
            pointee = Some(to);
        }
        Ok(Variable {
            name: String::new(),
            space: Space::Param,
            linkage: Linkage::Internal,
            ty: shape.ty,
            vector: 1,
            dims: Vec::new(),
            align: shape.align.unwrap_or(shape.ty.bytes() as u64),
            bytes: shape.ty.bytes() as u64,
            pointee,
            managed: false,
            init: None,
            span: at.span,
        })
    }

    /// Array bounds of a parameter; an open one is for `.func` (a variable argument list).
    fn param_size(&mut self, token: Token, variable: &mut Variable, entry: bool) -> Result<(), Failed> {
        let dims = self.dimensions()?;
        if dims.len() > 1 || (entry && dims.contains(&None)) {
            return self.fail_at(
                token,
                Reason::Invalid,
                "a parameter is a scalar or an array of known size".into(),
            );
        }
        let shape = super::declaration::Shape { align: None, vector: 1, ty: variable.ty, managed: false };
        variable.bytes = self.size_of(token, shape, &dims)?;
        variable.dims = dims;
        Ok(())
    }

    /// `.maxntid 128, 1, 1 .minnctapersm 2 .noreturn .pragma "..";`
    fn tuning(&mut self) -> Result<(), Failed> {
        loop {
            let at = self.token;
            let entry = self.building().kind == FunctionKind::Entry;
            let Some(word) = self.dot() else { return Ok(()) };
            match word {
                "pragma" => {
                    let strings = self.pragma()?;
                    self.building().directives.pragmas.extend(strings);
                    continue;
                }
                "noreturn" if !entry => self.building().directives.no_return = true,
                "maxntid" | "reqntid" | "minnctapersm" | "maxnctapersm" | "maxnreg" if entry => {}
                "maxclusterrank" | "reqnctapercluster" | "explicitcluster" | "blocksareclusters" => {
                    return self.fail_at(
                        at,
                        Reason::Unsupported,
                        format!("`.{word}` needs clusters (sm_90)"),
                    );
                }
                "abi_preserve" | "abi_preserve_control" | "unique" => {
                    return self.fail_at(at, Reason::Unsupported, format!("`.{word}` is not supported"));
                }
                _ => return self.fail_at(at, Reason::Syntax, format!("`.{word}` may not stand here")),
            }
            self.advance();
            match word {
                "maxntid" => self.building().directives.max_threads = Some(self.extent(word)?),
                "reqntid" => self.building().directives.required_block = Some(self.extent(word)?),
                "minnctapersm" | "maxnctapersm" => {
                    self.building().directives.min_blocks = Some(self.number(word)?)
                }
                "maxnreg" => self.building().directives.max_registers = Some(self.number(word)?),
                _ => {}
            }
            let directives = &self.building().directives;
            if directives.max_threads.is_some() && directives.required_block.is_some() {
                return self.fail_at(at, Reason::Invalid, ".maxntid and .reqntid exclude each other".into());
            }
        }
    }

    /// `x {, y {, z}}`, each at least 1.
    fn extent(&mut self, what: &str) -> Result<[u32; 3], Failed> {
        let mut extent = [1u32; 3];
        for (i, side) in extent.iter_mut().enumerate() {
            if i > 0 && !self.eat(b',') {
                break;
            }
            let at = self.token;
            *side = self.number(what)?;
            if *side == 0 {
                return self.fail_at(at, Reason::Invalid, format!(".{what} wants numbers above zero"));
            }
        }
        Ok(extent)
    }

    /// `{ statements }` of a function.
    fn body(&mut self) -> Result<(), Failed> {
        self.building().body = Some(Body::default());
        self.expect(b'{')?;
        self.block(0)?;
        self.expect(b'}')?;
        // What is still pending was found in no scope.
        let unresolved = std::mem::take(&mut self.scope().pending);
        for (name, span, _) in unresolved {
            if self.full() {
                break;
            }
            let line = self.source.lines().nth(span.line as usize - 1).unwrap_or("");
            self.statement = (line.as_ptr() as usize - self.source.as_ptr() as usize) as u32;
            self.report(span, Reason::Invalid, format!("there is no label `{name}` here"));
        }
        for (instr, operand, table) in std::mem::take(&mut self.table_uses) {
            let targets = self.branch_tables[table as usize].clone();
            if let Some(body) = &mut self.building().body {
                body.instrs[instr as usize].operands[operand as usize].kind = OperandKind::Labels(targets);
            }
        }
        Ok(())
    }

    /// Statements up to the closing brace, which stays.
    fn block(&mut self, depth: usize) -> Result<(), Failed> {
        while !self.at(b'}') {
            if self.token.kind == Kind::End {
                return self.fail(Reason::Syntax, "the function's `}` is missing".into());
            }
            if self.full() {
                return Err(Failed);
            }
            self.statement = self.token.start;
            if self.eat(b'{') {
                if depth >= limits::NESTING {
                    return self.fail(Reason::Limit, format!("scopes nest deeper than {}", limits::NESTING));
                }
                self.scopes.push(Scope::default());
                self.block(depth + 1)?;
                self.expect(b'}')?;
                self.close_scope();
            } else if self.statement().is_err() {
                // A table mentioned by an instruction that came to nothing.
                let count = self.instructions_so_far();
                self.table_uses.retain(|(instr, ..)| *instr < count);
                self.recover();
            }
        }
        self.resolve_labels();
        Ok(())
    }

    fn statement(&mut self) -> Result<(), Failed> {
        match self.token.kind {
            Kind::Punct(b'@') => {
                if self.ignored_directive()? {
                    return Ok(());
                }
                self.guarded()
            }
            Kind::Ident => {
                let token = self.token;
                self.advance();
                if self.eat(b':') { self.label(token) } else { self.instruction(None, token) }
            }
            Kind::Dot => match self.dot() {
                Some("reg") => self.registers(),
                Some("branchtargets" | "calltargets" | "callprototype") => {
                    self.fail(Reason::Syntax, "this directive needs a label before it".into())
                }
                _ if self.ignored_directive()? => Ok(()),
                _ => self.variables(Linkage::Internal),
            },
            _ => {
                let found = self.describe(self.token);
                self.fail(Reason::Syntax, format!("a statement is expected, not {found}"))
            }
        }
    }
}
