//! Instructions: guard, spelling, operands; calls and jumps through tables.
use super::{Failed, Parser, Token};
use crate::check::head::{self, Head};
use crate::diagnostic::Reason;
use crate::syntax::ast::{Call, CallTarget, Guard, Instr, Opcode, Operand, OperandKind, Type};
use crate::syntax::lexer::Kind;
use crate::syntax::limits;
use crate::syntax::scope::{Entity, Mention};

impl<'s> Parser<'s> {
    /// `@p` or `@!p`, then an instruction.
    pub(super) fn guarded(&mut self) -> Result<(), Failed> {
        self.advance();
        let negate = self.eat(b'!');
        let token = self.token;
        let name = self.identifier("a predicate")?;
        let reg = match self.lookup(name) {
            Some(Entity::Register { ty: Type::Pred, vector: 1, first: Some(reg) }) => reg,
            _ => {
                let message = format!("`{name}` is no predicate (declare it with .reg .pred)");
                return self.fail_at(token, Reason::Invalid, message);
            }
        };
        let token = self.token;
        self.identifier("an instruction")?;
        self.instruction(Some(Guard { reg, negate }), token)
    }

    /// The rest of an instruction whose first word has been read.
    pub(super) fn instruction(&mut self, guard: Option<Guard>, first: Token) -> Result<(), Failed> {
        let head = self.head(first)?;
        let Head { op, mods, .. } = &self.module.heads[head as usize];
        let (op, mods) = (*op, mods.clone());
        let index = self.instructions_so_far();
        if index as usize >= limits::INSTRUCTIONS {
            let message = format!("a function of more than {} instructions", limits::INSTRUCTIONS);
            return self.fail_at(first, Reason::Limit, message);
        }
        let mut labels = Vec::new();
        let (operands, call) = match op {
            Opcode::Call => (Vec::new(), Some(Box::new(self.call()?))),
            _ => (self.operands(op, index, &mut labels)?, None),
        };
        let text = (self.statement, self.token.end);
        self.expect(b';')?;
        let instr = Instr { guard, op, mods, head, operands, call, span: first.span, text };
        if let Some(body) = self.function.as_mut().and_then(|f| f.body.as_mut()) {
            body.instrs.push(instr);
        }
        self.scope().pending.extend(labels);
        Ok(())
    }

    pub(super) fn instructions_so_far(&self) -> u32 {
        self.function.as_ref().and_then(|f| f.body.as_ref()).map_or(0, |b| b.instrs.len() as u32)
    }

    /// The mnemonic with its modifiers, as an index into the module's distinct heads.
    fn head(&mut self, first: Token) -> Result<u32, Failed> {
        let mut contiguous = true;
        let mut end = first.end;
        let start = first.start as usize;
        let mut spaced = Vec::new();
        while let Some(word) = self.dot() {
            if self.token.start != end && contiguous {
                contiguous = false;
                spaced = self.source.get(start..end as usize).unwrap_or("").split('.').collect();
            }
            if !contiguous {
                spaced.push(word);
            }
            end = self.token.end;
            self.advance();
        }
        let key = self.source.get(start..end as usize).unwrap_or("");
        if let (true, Some(&known)) = (contiguous, self.heads.get(key)) {
            return Ok(known);
        }
        let words = if contiguous { key.split('.').collect() } else { spaced };
        match head::resolve(&words, self.module.version, &self.module.target) {
            Ok(head) => {
                self.module.heads.push(head);
                let index = self.module.heads.len() as u32 - 1;
                if contiguous {
                    self.heads.insert(key, index);
                }
                Ok(index)
            }
            Err((reason, message)) => self.fail_at(first, reason, message),
        }
    }

    /// Operands up to the semicolon.
    fn operands(&mut self, op: Opcode, instr: u32, labels: &mut Labels<'s>) -> Result<Vec<Operand>, Failed> {
        let mut operands = Vec::new();
        if self.at(b';') {
            return Ok(operands);
        }
        loop {
            if operands.len() >= limits::OPERANDS {
                return self.fail(Reason::Limit, format!("more than {} operands", limits::OPERANDS));
            }
            let position = operands.len() as u32;
            let operand = match (op, position) {
                (Opcode::Bra, 0) => self.label_operand(instr, labels)?,
                (Opcode::BrxIdx, 1) => self.table_operand(instr)?,
                _ => self.operand(op)?,
            };
            operands.push(operand);
            if !self.eat(b',') {
                return Ok(operands);
            }
        }
    }

    /// The target of `bra`: known when its scope is closed.
    fn label_operand(&mut self, instr: u32, labels: &mut Labels<'s>) -> Result<Operand, Failed> {
        let token = self.token;
        let name = self.identifier("a label")?;
        labels.push((name, token.span, Mention::Operand { instr, operand: 0 }));
        Ok(Operand { kind: OperandKind::Label(0), span: token.span })
    }

    /// The table of `brx.idx`.
    fn table_operand(&mut self, instr: u32) -> Result<Operand, Failed> {
        let token = self.token;
        let name = self.identifier("a .branchtargets label")?;
        match self.lookup(name) {
            Some(Entity::BranchTargets(table)) => self.table_uses.push((instr, 1, table)),
            _ => {
                let message = format!("`{name}` is no .branchtargets declared before");
                return self.fail_at(token, Reason::Invalid, message);
            }
        }
        Ok(Operand { kind: OperandKind::Labels(Vec::new()), span: token.span })
    }

    /// `(returns), target, (args), prototype`, all but the target optional.
    fn call(&mut self) -> Result<Call, Failed> {
        let mut returns = Vec::new();
        if self.at(b'(') {
            returns = self.arguments()?;
            self.expect(b',')?;
        }
        let token = self.token;
        let name = self.identifier("a function")?;
        let target = self.lookup(name);
        let mut args = Vec::new();
        let mut prototype = None;
        if self.eat(b',') {
            if self.at(b'(') {
                args = self.arguments()?;
                if self.eat(b',') {
                    prototype = Some(self.token);
                    self.identifier("a prototype")?;
                }
            } else {
                prototype = Some(self.token);
                self.identifier("a prototype")?;
            }
        }
        let target = match target {
            Some(Entity::Function(id)) if prototype.is_none() => CallTarget::Direct(id),
            Some(Entity::Register { vector: 1, first: Some(reg), .. }) => {
                let Some(list) = prototype else {
                    let message = "an indirect call names a .callprototype or .calltargets last".into();
                    return self.fail_at(token, Reason::Invalid, message);
                };
                let name = self.text(list);
                match self.lookup(name) {
                    Some(Entity::Prototype(p)) => {
                        CallTarget::Indirect { reg, prototype: Some(p), candidates: None }
                    }
                    Some(Entity::CallTargets(list)) => {
                        let candidates = Some(self.call_targets[list as usize].clone());
                        CallTarget::Indirect { reg, prototype: None, candidates }
                    }
                    _ => {
                        let message =
                            format!("`{name}` is no .callprototype or .calltargets declared before");
                        return self.fail_at(list, Reason::Invalid, message);
                    }
                }
            }
            Some(Entity::Function(_)) => {
                return self.fail_at(token, Reason::Invalid, "a direct call takes no prototype".into());
            }
            _ => {
                return self.fail_at(
                    token,
                    Reason::Invalid,
                    format!("`{name}` is nothing that can be called"),
                );
            }
        };
        Ok(Call { returns, target, args })
    }

    /// `(a, b)` of a call.
    fn arguments(&mut self) -> Result<Vec<Operand>, Failed> {
        self.expect(b'(')?;
        let mut operands = Vec::new();
        while !self.at(b')') {
            if operands.len() >= limits::SIGNATURE {
                return self.fail(Reason::Limit, format!("more than {} arguments", limits::SIGNATURE));
            }
            let operand = self.operand(Opcode::Call)?;
            operands.push(operand);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(operands)
    }

    /// Whether the token can begin a constant expression.
    pub(super) fn constant_ahead(&self) -> bool {
        match self.token.kind {
            Kind::Int | Kind::Float | Kind::HexF32 | Kind::HexF64 => true,
            Kind::Punct(b'-' | b'+' | b'(' | b'~' | b'!') => true,
            Kind::Ident => self.text(self.token) == "WARP_SZ",
            _ => false,
        }
    }
}

/// Labels mentioned by the instruction under way.
type Labels<'s> = Vec<(&'s str, crate::syntax::ast::Span, Mention)>;
