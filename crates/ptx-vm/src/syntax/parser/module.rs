//! The outermost level: the three header directives, variables and functions.
use super::{Failed, Parser};
use crate::diagnostic::Reason;
use crate::syntax::ast::{FunctionKind, Linkage, Target, Version};
use crate::syntax::lexer::Kind;

/// Targets that exist. A module for a target beyond `sm_89` may use what `sm_89` has.
const TARGETS: &[u32] = &[
    10, 11, 12, 13, 20, 21, 30, 32, 35, 37, 50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 88, 89, 90, 100,
    101, 103, 110, 120, 121,
];

impl<'s> Parser<'s> {
    /// The whole file.
    pub(super) fn module(&mut self) -> Result<(), Failed> {
        self.version()?;
        self.target()?;
        if self.eat_dot("address_size") {
            let at = self.token;
            self.module.address_size = self.number("the address size")?;
            if self.module.address_size != 64 {
                let message = "only .address_size 64 is supported; compile for 64 bits".into();
                return self.fail_at(at, Reason::Unsupported, message);
            }
        }
        while self.token.kind != Kind::End && !self.full() {
            self.statement = self.token.start;
            if self.item().is_err() {
                self.function = None;
                self.scopes.truncate(1);
                self.recover_item();
            }
        }
        Ok(())
    }

    fn version(&mut self) -> Result<(), Failed> {
        self.statement = self.token.start;
        if !self.eat_dot("version") {
            return self.fail(Reason::Syntax, "a PTX file begins with .version".into());
        }
        let token = self.token;
        let text = self.text(token);
        let parts = text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parts {
            Some((major, minor)) if token.kind == Kind::Float && major >= 1 => {
                self.module.version = Version { major, minor };
                self.advance();
                Ok(())
            }
            _ => self.fail_at(token, Reason::Syntax, ".version wants a number like 8.0".into()),
        }
    }

    /// `.target sm_80, debug`
    fn target(&mut self) -> Result<(), Failed> {
        self.statement = self.token.start;
        if !self.eat_dot("target") {
            return self.fail(Reason::Syntax, ".target must follow .version".into());
        }
        let mut target: Option<Target> = None;
        let mut options = Vec::new();
        loop {
            let token = self.token;
            let word = self.identifier("a target like sm_80")?;
            match word.strip_prefix("sm_") {
                Some(arch) => target = Some(self.architecture(token, arch)?),
                None if ["debug", "texmode_unified", "texmode_independent", "map_f64_to_f32"]
                    .contains(&word) =>
                {
                    options.push(word.to_owned());
                }
                None => return self.fail_at(token, Reason::Invalid, format!("`{word}` is no target")),
            }
            if !self.eat(b',') {
                break;
            }
        }
        match target {
            Some(target) => {
                self.module.target = Target { options, ..target };
                Ok(())
            }
            None => self.fail(Reason::Invalid, ".target names no architecture (sm_NN)".into()),
        }
    }

    fn architecture(&mut self, token: super::Token, arch: &str) -> Result<Target, Failed> {
        let suffix = arch.chars().last().filter(|c| matches!(c, 'a' | 'f'));
        let digits = arch.trim_end_matches(['a', 'f']);
        match digits.parse::<u32>() {
            Ok(sm) if TARGETS.contains(&sm) && arch.len() - digits.len() <= 1 => {
                Ok(Target { sm, suffix, options: Vec::new() })
            }
            _ => self.fail_at(token, Reason::Target, format!("`sm_{arch}` is no target that this VM knows")),
        }
    }

    /// Skips a broken item: to the `;` or past the braces that belong to it.
    fn recover_item(&mut self) {
        loop {
            match self.token.kind {
                Kind::End => return,
                Kind::Punct(b';') => return self.advance(),
                Kind::Punct(b'{') => return self.skip_braces(),
                Kind::Dot
                    if matches!(
                        self.dot(),
                        Some("entry" | "func" | "visible" | "extern" | "weak" | "common")
                    ) =>
                {
                    if self.token.start != self.statement {
                        return;
                    }
                    self.advance();
                }
                _ => self.advance(),
            }
        }
    }

    /// Skips `{ ... }` with everything nested in it.
    pub(super) fn skip_braces(&mut self) {
        let mut depth = 0usize;
        loop {
            match self.token.kind {
                Kind::End => return,
                Kind::Punct(b'{') => depth += 1,
                Kind::Punct(b'}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.advance();
            if depth == 0 {
                return;
            }
        }
    }

    /// One directive, variable or function.
    fn item(&mut self) -> Result<(), Failed> {
        if self.ignored_directive()? {
            return Ok(());
        }
        let linkage = self.linkage();
        match self.dot() {
            Some("entry") => {
                self.advance();
                self.function(FunctionKind::Entry, linkage)
            }
            Some("func") => {
                self.advance();
                self.function(FunctionKind::Func, linkage)
            }
            Some("alias") if linkage == Linkage::Internal => self.alias(),
            Some("tex" | "texref" | "samplerref" | "surfref") => {
                self.fail(Reason::Unsupported, "textures and surfaces are not supported by this VM".into())
            }
            Some("version" | "target" | "address_size") => {
                self.fail(Reason::Syntax, "this directive belongs to the head of the file, once".into())
            }
            Some(_) => self.variables(linkage),
            None => {
                let found = self.describe(self.token);
                self.fail(Reason::Syntax, format!("a directive is expected at module scope, not {found}"))
            }
        }
    }

    pub(super) fn linkage(&mut self) -> Linkage {
        let linkage = match self.dot() {
            Some("visible") => Linkage::Visible,
            Some("extern") => Linkage::Extern,
            Some("weak") => Linkage::Weak,
            Some("common") => Linkage::Common,
            _ => return Linkage::Internal,
        };
        self.advance();
        linkage
    }
}
