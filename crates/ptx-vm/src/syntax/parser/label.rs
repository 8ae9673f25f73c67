//! Names of places in the code: labels, the lists of them (`.branchtargets`), the lists of callees (`.calltargets`) and
//! the signatures of indirect calls (`.callprototype`).
use super::{Failed, Parser, Token};
use crate::diagnostic::Reason;
use crate::syntax::ast::{Label, OperandKind, Prototype, Signature};
use crate::syntax::scope::{Entity, Mention};

impl<'s> Parser<'s> {
    /// `name:`, or the name of a table or prototype.
    pub(super) fn label(&mut self, token: Token) -> Result<(), Failed> {
        let name = self.text(token);
        match self.dot() {
            Some("branchtargets") => {
                self.advance();
                return self.branch_targets(token);
            }
            Some("calltargets") => {
                self.advance();
                return self.call_target_list(token);
            }
            Some("callprototype") => {
                self.advance();
                return self.call_prototype(token);
            }
            _ => {}
        }
        if self.scope().declares(name) {
            return self.fail_at(token, Reason::Invalid, format!("`{name}` is declared twice in this scope"));
        }
        let Some(body) = &mut self.building().body else { return Err(Failed) };
        let at = body.instrs.len() as u32;
        body.labels.push(Label { name: name.to_owned(), at });
        self.scope().labels.insert(name, at);
        Ok(())
    }

    /// `name: .branchtargets L1, L2;`
    fn branch_targets(&mut self, name: Token) -> Result<(), Failed> {
        let table = self.branch_tables.len() as u32;
        let mut mentions = Vec::new();
        loop {
            let at = self.token;
            let label = self.identifier("a label")?;
            let mention = Mention::Table { table, index: mentions.len() as u32 };
            mentions.push((label, at.span, mention));
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        self.branch_tables.push(vec![0; mentions.len()]);
        self.scope().pending.extend(mentions);
        self.declare(name, Entity::BranchTargets(table))
    }

    /// `name: .calltargets f, g;`
    fn call_target_list(&mut self, name: Token) -> Result<(), Failed> {
        let mut targets = Vec::new();
        loop {
            let at = self.token;
            let function = self.identifier("a function's name")?;
            match self.lookup(function) {
                Some(Entity::Function(id)) => targets.push(id),
                _ => {
                    let message = format!("`{function}` is no function declared before");
                    return self.fail_at(at, Reason::Invalid, message);
                }
            }
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        self.call_targets.push(targets);
        let list = self.call_targets.len() as u32 - 1;
        self.declare(name, Entity::CallTargets(list))
    }

    /// `name: .callprototype (.param .b32 _) _ (.param .b64 _, .reg .b32 _);`
    fn call_prototype(&mut self, name: Token) -> Result<(), Failed> {
        let returns = if self.at(b'(') { self.signatures()? } else { Vec::new() };
        self.identifier("`_`")?;
        let params = if self.at(b'(') { self.signatures()? } else { Vec::new() };
        let no_return = self.eat_dot("noreturn");
        self.expect(b';')?;
        let text = self.text(name).to_owned();
        let prototypes = &mut self.building().prototypes;
        prototypes.push(Prototype { name: text, returns, params, no_return, span: name.span });
        let index = prototypes.len() as u32 - 1;
        self.declare(name, Entity::Prototype(index))
    }

    /// `(.param .b32 _, .reg .b64 _)`: names, where given, mean nothing.
    fn signatures(&mut self) -> Result<Vec<Signature>, Failed> {
        self.expect(b'(')?;
        let mut signatures = Vec::new();
        while !self.at(b')') {
            let at = self.token;
            let register = match self.dot() {
                Some("reg") => true,
                Some("param") => false,
                _ => return self.fail(Reason::Syntax, ".param or .reg is expected".into()),
            };
            self.advance();
            let mut variable = if register {
                let shape = self.shape()?;
                let bytes = shape.ty.bytes() as u64;
                Signature { register, ty: shape.ty, bytes, align: bytes }
            } else {
                let variable = self.param()?;
                Signature { register, ty: variable.ty, bytes: variable.bytes, align: variable.align }
            };
            self.identifier("`_`")?;
            if !register && self.at(b'[') {
                let dims = self.dimensions()?;
                let shape =
                    super::declaration::Shape { align: None, vector: 1, ty: variable.ty, managed: false };
                variable.bytes = self.size_of(at, shape, &dims)?;
            }
            signatures.push(variable);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(signatures)
    }

    /// Patches every mention of a label that this scope holds; the rest waits for the scope around.
    pub(super) fn resolve_labels(&mut self) {
        let scope = self.scope();
        let pending = std::mem::take(&mut scope.pending);
        let mut found = Vec::new();
        let mut kept = Vec::new();
        for (name, span, mention) in pending {
            match scope.labels.get(name) {
                Some(&at) => found.push((mention, at)),
                None => kept.push((name, span, mention)),
            }
        }
        scope.pending = kept;
        for (mention, at) in found {
            match mention {
                Mention::Operand { instr, operand } => {
                    if let Some(body) = self.function.as_mut().and_then(|f| f.body.as_mut()) {
                        body.instrs[instr as usize].operands[operand as usize].kind = OperandKind::Label(at);
                    }
                }
                Mention::Table { table, index } => self.branch_tables[table as usize][index as usize] = at,
            }
        }
    }

    pub(super) fn close_scope(&mut self) {
        let inner = self.scopes.pop().unwrap_or_default();
        self.scope().pending.extend(inner.pending);
    }
}
