//! Directives without an effect on execution: debug information is skipped, pragmas are kept, aliases are names.
use super::{Failed, Parser};
use crate::diagnostic::Reason;
use crate::syntax::lexer::Kind;
use crate::syntax::scope::Entity;

impl<'s> Parser<'s> {
    /// `.file`, `.loc`, `.section`, `.pragma` and the old `@@DWARF`: true when one of them was read.
    pub(super) fn ignored_directive(&mut self) -> Result<bool, Failed> {
        match self.dot() {
            Some("file") => self.file()?,
            Some("loc") => self.loc()?,
            Some("section") => self.section()?,
            Some("pragma") => {
                self.pragma()?;
            }
            _ if self.at(b'@') && self.source[self.token.start as usize..].starts_with("@@") => {
                let line = self.token.span.line;
                while self.token.span.line == line && self.token.kind != Kind::End {
                    self.advance();
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `.file index "name" {, timestamp, size}`
    fn file(&mut self) -> Result<(), Failed> {
        self.advance();
        self.number::<u32>("the file index")?;
        self.string("the file's name")?;
        while self.eat(b',') {
            self.number::<u64>("the file's time stamp or size")?;
        }
        Ok(())
    }

    /// `.loc file line column {, function_name label {+ offset}, inlined_at file line column}`
    fn loc(&mut self) -> Result<(), Failed> {
        self.advance();
        for _ in 0..3 {
            self.number::<u64>("a source location")?;
        }
        while self.eat(b',') {
            match self.identifier("function_name or inlined_at")? {
                "function_name" => {
                    self.identifier("a label")?;
                    if self.eat(b'+') {
                        self.number::<u64>("an offset")?;
                    }
                }
                "inlined_at" => {
                    for _ in 0..3 {
                        self.number::<u64>("a source location")?;
                    }
                }
                other => return self.fail(Reason::Syntax, format!("`{other}` is no attribute of .loc")),
            }
        }
        Ok(())
    }

    /// `.section name { data }`
    fn section(&mut self) -> Result<(), Failed> {
        self.advance();
        match self.token.kind {
            Kind::Dot | Kind::Ident => self.advance(),
            _ => return self.fail(Reason::Syntax, "a section's name is expected".into()),
        }
        if !self.at(b'{') {
            let found = self.describe(self.token);
            return self.fail(Reason::Syntax, format!("`{{` is expected, not {found}"));
        }
        self.skip_braces();
        Ok(())
    }

    /// `.pragma "text" {, "text"};` The strings, without quotes. An unknown pragma means nothing.
    pub(super) fn pragma(&mut self) -> Result<Vec<String>, Failed> {
        self.advance();
        let mut strings = vec![self.string("a pragma")?];
        while self.eat(b',') {
            strings.push(self.string("a pragma")?);
        }
        self.expect(b';')?;
        Ok(strings)
    }

    fn string(&mut self, what: &str) -> Result<String, Failed> {
        if self.token.kind != Kind::Str {
            let found = self.describe(self.token);
            return self.fail(Reason::Syntax, format!("{what} in quotes is expected, not {found}"));
        }
        let text = self.text(self.token);
        self.advance();
        Ok(text.trim_matches('"').to_owned())
    }

    /// `.alias new, old;` gives a declared function a body that another function has.
    pub(super) fn alias(&mut self) -> Result<(), Failed> {
        self.advance();
        let mut names = [self.token; 2];
        for (i, place) in names.iter_mut().enumerate() {
            *place = self.token;
            self.identifier("a function's name")?;
            if i == 0 {
                self.expect(b',')?;
            }
        }
        self.expect(b';')?;
        let mut ids = [super::FunctionId(0); 2];
        for (token, id) in names.iter().zip(&mut ids) {
            let name = self.text(*token);
            match self.scopes[0].names.get(name) {
                Some(Entity::Function(found)) => *id = *found,
                _ => {
                    return self.fail_at(
                        *token,
                        Reason::Invalid,
                        format!("`{name}` is no function declared before"),
                    );
                }
            }
        }
        let [alias, target] = ids.map(|id| &self.module.functions[id.0 as usize]);
        if alias.body.is_some() || target.body.is_none() {
            let message = ".alias wants a declaration without a body and a function with one".into();
            return self.fail_at(names[0], Reason::Invalid, message);
        }
        if alias.kind != target.kind || !self.same_signature(alias, target) {
            return self.fail_at(
                names[0],
                Reason::Invalid,
                "the two functions of .alias differ in signature".into(),
            );
        }
        // Code read before this line refers to the declaration, so the declaration becomes a copy of the function.
        let name = alias.name.clone();
        let copy = super::Function { name, ..target.clone() };
        self.module.functions[ids[0].0 as usize] = copy;
        Ok(())
    }
}
