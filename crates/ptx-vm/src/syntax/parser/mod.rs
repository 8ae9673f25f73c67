//! Recursive descent over tokens. Names are resolved on the way, since PTX declares before it uses; only labels wait
//! for the end of their scope.
//!
//! A broken statement is reported and skipped to its `;`, so one run reports every broken statement. What an
//! instruction may look like is decided once per distinct spelling (`add.rn.f32`), see [`crate::check::head`].
mod declaration;
mod directive;
mod expression;
mod function;
mod instruction;
mod label;
mod module;
mod operand;

use super::ast::{Function, FunctionId, Module, RegId, Register, Span, SymbolId, Target, Variable, Version};
use super::lexer::{Kind, Lexer, Token};
use super::limits;
use super::scope::{Entity, Names, Range, Scope, split_number};
use crate::diagnostic::{Diagnostic, LoadError, MAX_DIAGNOSTICS, Reason, excerpt};

/// The error has been reported already; the caller only has to find its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// The state of one parse.
pub(crate) struct Parser<'s> {
    source: &'s str,
    lexer: Lexer<'s>,
    pub(super) token: Token,
    previous_end: u32,
    /// Where the statement under way began, for excerpts.
    statement: u32,
    errors: Vec<Diagnostic>,
    module: Module,
    scopes: Vec<Scope<'s>>,
    /// The function whose body is being read.
    function: Option<Function>,
    /// Targets of `.branchtargets` of the function: instruction indices once the scope is closed.
    branch_tables: Vec<Vec<u32>>,
    /// Functions of `.calltargets` of the function.
    call_targets: Vec<Vec<FunctionId>>,
    /// `brx.idx` operands that take a table when the body is complete.
    table_uses: Vec<(u32, u32, u32)>,
    /// Each distinct spelling of an instruction, by its text.
    heads: Names<'s, u32>,
}

/// Parses a module: every name resolved, every instruction's spelling known to the instruction table; operands are
/// not yet held against it.
///
/// # Errors
/// Every finding with its place, up to [`MAX_DIAGNOSTICS`].
pub fn parse(name: &str, source: &str) -> Result<Module, LoadError> {
    let mut parser = Parser::new(name, source);
    if source.len() > limits::SOURCE_BYTES {
        let _ = parser
            .fail::<()>(Reason::Limit, format!("the source is larger than {} bytes", limits::SOURCE_BYTES));
    } else {
        let _ = parser.module();
    }
    match parser.errors.is_empty() {
        true => Ok(parser.module),
        false => Err(LoadError { file: name.to_owned(), diagnostics: parser.errors }),
    }
}

impl<'s> Parser<'s> {
    fn new(name: &str, source: &'s str) -> Parser<'s> {
        let source = source.trim_end_matches('\0');
        let mut lexer = Lexer::new(source);
        let token = lexer.next();
        let module = Module {
            name: name.to_owned(),
            source: source.to_owned(),
            version: Version { major: 0, minor: 0 },
            target: Target { sm: 0, suffix: None, options: Vec::new() },
            address_size: 64,
            variables: Vec::new(),
            functions: Vec::new(),
            heads: Vec::new(),
        };
        Parser {
            source,
            lexer,
            token,
            previous_end: 0,
            statement: 0,
            errors: Vec::new(),
            module,
            scopes: vec![Scope::default()],
            function: None,
            branch_tables: Vec::new(),
            call_targets: Vec::new(),
            table_uses: Vec::new(),
            heads: Names::default(),
        }
    }

    // ---- tokens ----

    fn text(&self, token: Token) -> &'s str {
        self.source.get(token.start as usize..token.end as usize).unwrap_or("")
    }

    fn advance(&mut self) {
        self.previous_end = self.token.end;
        self.token = self.lexer.next();
    }

    fn at(&self, punct: u8) -> bool {
        self.token.kind == Kind::Punct(punct)
    }

    fn eat(&mut self, punct: u8) -> bool {
        let there = self.at(punct);
        if there {
            self.advance();
        }
        there
    }

    fn expect(&mut self, punct: u8) -> Result<(), Failed> {
        if self.eat(punct) {
            return Ok(());
        }
        let found = self.describe(self.token);
        self.fail(Reason::Syntax, format!("`{}` is expected, not {found}", punct as char))
    }

    /// Eats `.word` when it is next.
    fn eat_dot(&mut self, word: &str) -> bool {
        let there = self.token.kind == Kind::Dot && &self.text(self.token)[1..] == word;
        if there {
            self.advance();
        }
        there
    }

    /// The word after the dot, when the next token is one.
    fn dot(&self) -> Option<&'s str> {
        (self.token.kind == Kind::Dot).then(|| &self.text(self.token)[1..])
    }

    fn identifier(&mut self, what: &str) -> Result<&'s str, Failed> {
        if self.token.kind != Kind::Ident {
            let found = self.describe(self.token);
            return self.fail(Reason::Syntax, format!("{what} is expected, not {found}"));
        }
        let text = self.text(self.token);
        self.advance();
        Ok(text)
    }

    /// An integer constant that fits `T`.
    fn number<T: TryFrom<u64>>(&mut self, what: &str) -> Result<T, Failed> {
        let at = self.token;
        let bits = self.integer_expression()?;
        match T::try_from(bits) {
            Ok(n) => Ok(n),
            Err(_) => self.fail_at(at, Reason::Invalid, format!("{what} is out of range")),
        }
    }

    fn describe(&self, token: Token) -> String {
        match token.kind {
            Kind::End => "the end of the file".into(),
            _ => format!("`{}`", excerpt(self.text(token))),
        }
    }

    // ---- errors ----

    /// Reports an error at the current token.
    fn fail<T>(&mut self, reason: Reason, message: String) -> Result<T, Failed> {
        self.fail_at(self.token, reason, message)
    }

    fn fail_at<T>(&mut self, token: Token, reason: Reason, message: String) -> Result<T, Failed> {
        let (reason, message) = match token.kind {
            Kind::Bad(what) => (Reason::Syntax, what.to_owned()),
            _ => (reason, message),
        };
        self.report(token.span, reason, message);
        Err(Failed)
    }

    /// Reports an error with the statement under way (or the rest of its line) as the excerpt.
    fn report(&mut self, span: Span, reason: Reason, message: String) {
        if self.errors.len() >= MAX_DIAGNOSTICS {
            return;
        }
        let rest = self.source.get(self.statement as usize..).unwrap_or("");
        let end = rest.find([';', '{', '\n']).unwrap_or(rest.len());
        let end = if rest[end..].starts_with(';') { end + 1 } else { end };
        let text = excerpt(&rest[..end]);
        self.errors.push(Diagnostic { reason, span, message, text });
    }

    fn full(&self) -> bool {
        self.errors.len() >= MAX_DIAGNOSTICS
    }

    /// Skips to the end of the statement: past its `;`, or to the brace of a scope.
    fn recover(&mut self) {
        loop {
            match self.token.kind {
                Kind::End => return,
                Kind::Punct(b'{' | b'}') if !self.brace_of_vector() => return,
                Kind::Punct(b';') => return self.advance(),
                _ => self.advance(),
            }
        }
    }

    /// Whether the brace here belongs to a vector operand: one that closes before any `;`, or is followed by what no
    /// statement begins with.
    fn brace_of_vector(&self) -> bool {
        let mut ahead = self.lexer.clone();
        if self.at(b'}') {
            return matches!(ahead.next().kind, Kind::Punct(b',' | b';' | b']'));
        }
        loop {
            match ahead.next().kind {
                Kind::Punct(b'}') => return true,
                Kind::Punct(b'{' | b';') | Kind::End => return false,
                _ => {}
            }
        }
    }

    // ---- names ----

    fn scope(&mut self) -> &mut Scope<'s> {
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    /// Adds a name to the innermost scope; a second declaration there is an error.
    fn declare(&mut self, token: Token, entity: Entity) -> Result<(), Failed> {
        let name = self.text(token);
        if self.scope().declares(name) {
            return self.fail_at(token, Reason::Invalid, format!("`{name}` is declared twice in this scope"));
        }
        self.scope().insert(name, entity);
        Ok(())
    }

    /// What a name stands for, innermost scope first; registers are numbered here, at their first mention.
    fn lookup(&mut self, name: &'s str) -> Option<Entity> {
        for depth in (0..self.scopes.len()).rev() {
            if let Some(&entity) = self.scopes[depth].names.get(name) {
                return Some(match entity {
                    Entity::Register { ty, vector, first: None } => {
                        let first = Some(self.new_registers(name, ty, vector));
                        let entity = Entity::Register { ty, vector, first };
                        self.scopes[depth].names.insert(name, entity);
                        entity
                    }
                    other => other,
                });
            }
            if let Some(entity) = self.lookup_range(depth, name) {
                self.scopes[depth].names.insert(name, entity);
                return Some(entity);
            }
        }
        None
    }

    /// `%r12` in a scope that declares `%r<100>`.
    fn lookup_range(&mut self, depth: usize, name: &'s str) -> Option<Entity> {
        let (prefix, number) = split_number(name)?;
        let Range { count, ty, vector, mentioned } = self.scopes[depth].ranges.get(prefix)?;
        let (ty, vector) = (*ty, *vector);
        if number >= *count {
            return None;
        }
        let first = match mentioned.get(&number) {
            Some(&reg) => reg,
            None => {
                let reg = self.new_registers(name, ty, vector);
                self.scopes[depth].ranges.get_mut(prefix)?.mentioned.insert(number, reg);
                reg
            }
        };
        Some(Entity::Register { ty, vector, first: Some(first) })
    }

    /// Numbers a register, or the components of a vector register.
    fn new_registers(&mut self, name: &str, ty: super::ast::Type, vector: u8) -> RegId {
        let registers = match &mut self.function {
            Some(function) => &mut function.registers,
            None => return RegId(0), // registers exist only inside functions; declarations elsewhere are refused
        };
        let first = RegId(registers.len() as u32);
        if vector == 1 {
            registers.push(Register { name: name.to_owned(), ty });
        } else {
            let components = ["x", "y", "z", "w"].iter().take(vector as usize);
            registers.extend(components.map(|c| Register { name: format!("{name}.{c}"), ty }));
        }
        first
    }

    /// The variable table that new declarations go to.
    fn add_variable(&mut self, variable: Variable) -> SymbolId {
        match &mut self.function {
            Some(function) => {
                function.variables.push(variable);
                SymbolId::Local(function.variables.len() as u32 - 1)
            }
            None => {
                self.module.variables.push(variable);
                SymbolId::Module(self.module.variables.len() as u32 - 1)
            }
        }
    }

    fn variable(&self, symbol: SymbolId) -> Option<&Variable> {
        match symbol {
            SymbolId::Module(i) => self.module.variables.get(i as usize),
            SymbolId::Local(i) => self.function.as_ref()?.variables.get(i as usize),
            SymbolId::Function(_) => None,
        }
    }
}
