//! Operands: registers, constants, names with an offset, addresses in brackets, vectors in braces.
use super::{Failed, Parser};
use crate::diagnostic::Reason;
use crate::syntax::ast::{Base, Opcode, Operand, OperandKind, PairHalf, RegId, SpecialRegister, SymbolId};
use crate::syntax::lexer::Kind;
use crate::syntax::limits;
use crate::syntax::scope::Entity;

impl<'s> Parser<'s> {
    /// One operand of `op`.
    pub(super) fn operand(&mut self, op: Opcode) -> Result<Operand, Failed> {
        let span = self.token.span;
        let kind = match self.token.kind {
            Kind::Punct(b'[') => self.address()?,
            Kind::Punct(b'{') => lone(op, self.vector(op)?),
            Kind::Punct(b'!') => self.negated()?,
            _ if self.constant_ahead() => OperandKind::Immediate(self.expression()?.immediate()),
            Kind::Ident => self.named(op)?,
            _ => {
                let found = self.describe(self.token);
                return self.fail(Reason::Syntax, format!("an operand is expected, not {found}"));
            }
        };
        let kind = if self.eat(b'|') { self.pair(kind)? } else { kind };
        Ok(Operand { kind, span })
    }

    /// `p|q`: the first half has been read.
    fn pair(&mut self, first: OperandKind) -> Result<OperandKind, Failed> {
        let at = self.token;
        let first = self.half(at, &first)?;
        let second = self.name_operand()?;
        let second = self.half(at, &second)?;
        Ok(OperandKind::Pair(first, second))
    }

    fn half(&mut self, at: super::Token, kind: &OperandKind) -> Result<PairHalf, Failed> {
        match kind {
            OperandKind::Register(reg) => Ok(PairHalf::Reg(*reg)),
            OperandKind::Sink => Ok(PairHalf::Sink),
            _ => self.fail_at(at, Reason::Invalid, "only registers can stand on the sides of `|`".into()),
        }
    }

    /// `!%p`, or a constant expression that begins with `!`.
    fn negated(&mut self) -> Result<OperandKind, Failed> {
        let mut ahead = self.lexer.clone();
        let next = ahead.next();
        if next.kind != Kind::Ident || self.text(next) == "WARP_SZ" {
            return Ok(OperandKind::Immediate(self.expression()?.immediate()));
        }
        self.advance();
        let at = self.token;
        match self.name_operand()? {
            OperandKind::Register(reg) => Ok(OperandKind::NotPredicate(reg)),
            _ => self.fail_at(at, Reason::Invalid, "only a predicate can be negated".into()),
        }
    }

    /// A name with what may follow it: `x + 4`, `x[4]`.
    fn named(&mut self, op: Opcode) -> Result<OperandKind, Failed> {
        let kind = self.name_operand()?;
        let OperandKind::Symbol { symbol, .. } = kind else { return Ok(kind) };
        if self.eat(b'+') {
            let offset = self.integer_expression()? as i64;
            return Ok(OperandKind::Symbol { symbol, offset });
        }
        if self.eat(b'[') {
            let index = self.integer_expression()? as i64;
            self.expect(b']')?;
            let element = self.variable(symbol).map_or(1, |v| v.ty.bytes() as i64 * i64::from(v.vector));
            let offset = index.wrapping_mul(element);
            return Ok(match op {
                Opcode::Mov | Opcode::Cvta => OperandKind::Symbol { symbol, offset },
                _ => OperandKind::Memory { base: Base::Symbol(symbol), offset },
            });
        }
        Ok(kind)
    }

    /// A register (with a component), special register, variable, function or `_`.
    fn name_operand(&mut self) -> Result<OperandKind, Failed> {
        let token = self.token;
        let name = self.identifier("a name")?;
        if name == "_" {
            return Ok(OperandKind::Sink);
        }
        match self.lookup(name) {
            Some(Entity::Register { vector: 1, first: Some(reg), .. }) => Ok(OperandKind::Register(reg)),
            Some(Entity::Register { vector, first: Some(first), .. }) => self.component(vector, first),
            Some(Entity::Variable(symbol)) => Ok(OperandKind::Symbol { symbol, offset: 0 }),
            Some(Entity::Function(id)) => {
                Ok(OperandKind::Symbol { symbol: SymbolId::Function(id), offset: 0 })
            }
            Some(_) => self.fail_at(
                token,
                Reason::Invalid,
                format!("`{name}` is a table or a prototype, not an operand"),
            ),
            None => self.special(token, name),
        }
    }

    /// `%v.x` of a vector register, or the whole of it as a vector operand.
    fn component(&mut self, vector: u8, first: RegId) -> Result<OperandKind, Failed> {
        let token = self.token;
        let Some(word) = self.dot() else {
            let element = |i| Operand { kind: OperandKind::Register(RegId(first.0 + i)), span: token.span };
            return Ok(OperandKind::Vector((0..u32::from(vector)).map(element).collect()));
        };
        self.advance();
        let index = match word {
            "x" | "r" => 0,
            "y" | "g" => 1,
            "z" | "b" => 2,
            "w" | "a" => 3,
            _ => u32::MAX,
        };
        if index >= u32::from(vector) {
            return self.fail_at(token, Reason::Invalid, format!("the register has no component `.{word}`"));
        }
        Ok(OperandKind::Register(RegId(first.0 + index)))
    }

    /// `%tid.x`, `%clock64`, or all four of `%tid` as a vector.
    fn special(&mut self, token: super::Token, name: &'s str) -> Result<OperandKind, Failed> {
        let unknown = |p: &mut Self| p.fail_at(token, Reason::Invalid, format!("`{name}` is not declared"));
        let Some(word) = name.strip_prefix('%') else { return unknown(self) };
        let component = self.dot();
        let (reason, message) = match SpecialRegister::from_word(word, component) {
            Some(special) => {
                if component.is_some() {
                    self.advance();
                }
                return match special.available(self.module.version, &self.module.target) {
                    Ok(()) => Ok(OperandKind::Special(special)),
                    Err((reason, message)) => self.fail_at(token, reason, format!("`{name}` {message}")),
                };
            }
            None if component.is_none() && SpecialRegister::from_word(word, Some("x")).is_some() => {
                let axes = ["x", "y", "z", "w"]
                    .into_iter()
                    .filter_map(|c| SpecialRegister::from_word(word, Some(c)));
                let element = |s| Operand { kind: OperandKind::Special(s), span: token.span };
                return Ok(OperandKind::Vector(axes.map(element).collect()));
            }
            None if SpecialRegister::from_word(word, Some("x")).is_some() => {
                (Reason::Invalid, format!("`{name}` has the components .x, .y, .z and .w"))
            }
            None if SpecialRegister::needs_clusters(word) => {
                (Reason::Unsupported, format!("`{name}` needs clusters (sm_90), which this VM does not have"))
            }
            None => return unknown(self),
        };
        self.fail_at(token, reason, message)
    }

    /// `[register + offset]`, `[variable + offset]`, `[constant]`.
    fn address(&mut self) -> Result<OperandKind, Failed> {
        self.advance();
        let at = self.token;
        let kind = if self.constant_ahead() {
            let offset = self.integer_expression()? as i64;
            OperandKind::Memory { base: Base::Absolute, offset }
        } else {
            let base = match self.name_operand()? {
                OperandKind::Register(reg) => Base::Reg(reg),
                OperandKind::Symbol { symbol, .. } => Base::Symbol(symbol),
                _ => {
                    return self.fail_at(
                        at,
                        Reason::Invalid,
                        "an address starts with a register or a variable".into(),
                    );
                }
            };
            let offset = if self.eat(b'+') { self.integer_expression()? as i64 } else { 0 };
            OperandKind::Memory { base, offset }
        };
        self.expect(b']')?;
        Ok(kind)
    }

    /// `{a, b, c, d}` of registers, constants and sinks.
    fn vector(&mut self, op: Opcode) -> Result<OperandKind, Failed> {
        self.advance();
        let mut elements = Vec::new();
        loop {
            if elements.len() >= limits::OPERANDS {
                return self.fail(Reason::Limit, format!("more than {} elements", limits::OPERANDS));
            }
            if self.at(b'{') || self.at(b'[') {
                return self.fail(Reason::Syntax, "a vector's elements are registers or constants".into());
            }
            let element = self.operand(op)?;
            elements.push(element);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b'}')?;
        Ok(OperandKind::Vector(elements))
    }
}

/// `ld.b32 {%r1}, [%rd1]`, as Triton writes it: braces around one element of a load or store are nothing.
fn lone(op: Opcode, kind: OperandKind) -> OperandKind {
    match kind {
        OperandKind::Vector(mut elements)
            if elements.len() == 1 && matches!(op, Opcode::Ld | Opcode::Ldu | Opcode::St) =>
        {
            elements.remove(0).kind
        }
        kind => kind,
    }
}
