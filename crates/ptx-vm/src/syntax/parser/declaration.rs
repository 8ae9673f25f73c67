//! Variables and registers: `.shared .align 16 .b8 tile[4096];`, `.reg .b32 %r<100>;`, and their first values.
use super::{Failed, Parser, Token};
use crate::diagnostic::Reason;
use crate::syntax::ast::{InitValue, Initializer, Linkage, Space, Type, Variable};
use crate::syntax::lexer::Kind;
use crate::syntax::limits;
use crate::syntax::parser::expression::Value;
use crate::syntax::scope::{Entity, Range};

/// What stands between the state space and the name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub align: Option<u64>,
    pub vector: u8,
    pub ty: Type,
    pub managed: bool,
}

impl<'s> Parser<'s> {
    /// One declaration statement outside or inside a function, `.reg` excluded.
    pub(super) fn variables(&mut self, linkage: Linkage) -> Result<(), Failed> {
        let at = self.token;
        let space = match self.dot() {
            Some("global") => Space::Global,
            Some("const") => Space::Const,
            Some("shared") => Space::Shared,
            Some("local") => Space::Local,
            Some("param") => Space::Param,
            _ => {
                let found = self.describe(at);
                return self.fail(Reason::Syntax, format!("{found} is no directive that may stand here"));
            }
        };
        self.advance();
        let inside = self.function.is_some();
        match space {
            Space::Const if self.at(b'[') => {
                return self.fail_at(
                    at,
                    Reason::Unsupported,
                    "explicit constant banks are not supported".into(),
                );
            }
            Space::Local | Space::Param if !inside => {
                return self.fail_at(
                    at,
                    Reason::Invalid,
                    format!("a .{space} variable belongs inside a function"),
                );
            }
            _ if inside && linkage != Linkage::Internal => {
                let message = "a variable inside a function has no linkage of its own".into();
                return self.fail_at(at, Reason::Invalid, message);
            }
            _ if linkage == Linkage::Common && space != Space::Global => {
                return self.fail_at(at, Reason::Invalid, ".common variables must be .global".into());
            }
            _ => {}
        }
        let shape = self.shape()?;
        loop {
            self.declarator(space, linkage, shape)?;
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    /// `.attribute(.managed) .align 16 .v4 .f32`, in any order but the type last.
    pub(super) fn shape(&mut self) -> Result<Shape, Failed> {
        let mut shape = Shape { align: None, vector: 1, ty: Type::B8, managed: false };
        loop {
            let at = self.token;
            let Some(word) = self.dot() else {
                let found = self.describe(at);
                return self.fail(Reason::Syntax, format!("a type is expected, not {found}"));
            };
            self.advance();
            match word {
                "align" => {
                    let n: u64 = self.number("the alignment")?;
                    if !n.is_power_of_two() || n > limits::ALIGNMENT {
                        return self.fail_at(
                            at,
                            Reason::Invalid,
                            "an alignment is a power of two up to 65536".into(),
                        );
                    }
                    shape.align = Some(n);
                }
                "v2" => shape.vector = 2,
                "v4" => shape.vector = 4,
                "attribute" => {
                    self.expect(b'(')?;
                    match self.dot() {
                        Some("managed") => shape.managed = true,
                        _ => {
                            return self.fail(
                                Reason::Unsupported,
                                "only the attribute .managed is supported".into(),
                            );
                        }
                    }
                    self.advance();
                    self.expect(b')')?;
                }
                "texref" | "samplerref" | "surfref" => {
                    let message = "textures and surfaces are not supported by this VM".into();
                    return self.fail_at(at, Reason::Unsupported, message);
                }
                _ => match Type::from_word(word) {
                    Some(ty) if declarable(ty) => {
                        shape.ty = ty;
                        break;
                    }
                    _ => {
                        return self.fail_at(
                            at,
                            Reason::Invalid,
                            format!("nothing can be declared as `.{word}`"),
                        );
                    }
                },
            }
        }
        if shape.vector > 1 && (shape.ty.bits() * u32::from(shape.vector) > 128 || shape.ty == Type::Pred) {
            return self.fail(Reason::Invalid, "a vector is larger than 128 bits".into());
        }
        Ok(shape)
    }

    /// `[4][]`: dimensions, outermost first; only the first may be open.
    pub(super) fn dimensions(&mut self) -> Result<Vec<Option<u64>>, Failed> {
        let mut dims = Vec::new();
        while self.eat(b'[') {
            let at = self.token;
            if dims.len() >= limits::DIMENSIONS {
                return self.fail(Reason::Limit, format!("more than {} dimensions", limits::DIMENSIONS));
            }
            let size = if self.at(b']') { None } else { Some(self.number::<u64>("the array size")?) };
            if dims.is_empty() || size.is_some() {
                dims.push(size.filter(|&n| n > 0));
            } else {
                return self.fail_at(at, Reason::Invalid, "only the first dimension may be left open".into());
            }
            if size == Some(0) && dims.len() > 1 {
                return self.fail_at(at, Reason::Invalid, "a dimension of zero".into());
            }
            self.expect(b']')?;
        }
        Ok(dims)
    }

    /// The size of all elements in bytes; 0 when a dimension is open.
    pub(super) fn size_of(&mut self, at: Token, shape: Shape, dims: &[Option<u64>]) -> Result<u64, Failed> {
        let element = shape.ty.bytes() as u64 * u64::from(shape.vector);
        let bytes = dims.iter().try_fold(element, |bytes, dim| {
            bytes.checked_mul(dim.unwrap_or(1)).filter(|&b| b <= limits::VARIABLE_BYTES)
        });
        match bytes {
            Some(_) if dims.contains(&None) => Ok(0),
            Some(bytes) => Ok(bytes),
            None => {
                let message = format!("a variable larger than {} bytes", limits::VARIABLE_BYTES);
                self.fail_at(at, Reason::Limit, message)
            }
        }
    }

    /// One name with its array bounds and initialiser.
    fn declarator(&mut self, space: Space, linkage: Linkage, shape: Shape) -> Result<(), Failed> {
        let token = self.token;
        let name = self.identifier("a variable's name")?;
        if shape.ty == Type::Pred {
            return self.fail_at(
                token,
                Reason::Invalid,
                "a predicate lives in a register (.reg .pred)".into(),
            );
        }
        if self.at(b'<') {
            let message = "name<N> is supported for registers only; declare an array".into();
            return self.fail(Reason::Unsupported, message);
        }
        let dims = self.dimensions()?;
        let bytes = self.size_of(token, shape, &dims)?;
        let align = shape.align.unwrap_or(u64::from(shape.vector) * shape.ty.bytes() as u64);
        let variable = Variable {
            name: name.to_owned(),
            space,
            linkage,
            ty: shape.ty,
            vector: shape.vector,
            dims,
            align,
            bytes,
            pointee: None,
            managed: shape.managed,
            init: None,
            span: token.span,
        };
        let entity = match self.redeclared(name, &variable) {
            Some(entity) => entity,
            None => {
                let symbol = self.add_variable(variable.clone());
                self.declare(token, Entity::Variable(symbol))?;
                Entity::Variable(symbol)
            }
        };
        self.finish_variable(token, entity, variable)
    }

    /// The earlier `.extern` declaration that this one completes or repeats.
    fn redeclared(&self, name: &str, new: &Variable) -> Option<Entity> {
        if self.function.is_some() {
            return None;
        }
        let &entity = self.scopes[0].names.get(name)?;
        let Entity::Variable(symbol) = entity else { return None };
        let old = self.variable(symbol)?;
        let one_extern = old.linkage == Linkage::Extern || new.linkage == Linkage::Extern;
        (one_extern && old.space == new.space && old.ty == new.ty && old.vector == new.vector)
            .then_some(entity)
    }

    /// Reads the initialiser and stores the completed variable.
    fn finish_variable(
        &mut self,
        token: Token,
        entity: Entity,
        mut variable: Variable,
    ) -> Result<(), Failed> {
        let Entity::Variable(symbol) = entity else { return Err(Failed) };
        if self.at(b'=') {
            self.advance();
            if !matches!(variable.space, Space::Global | Space::Const) || variable.linkage == Linkage::Extern
            {
                let message = format!("a .{} variable declared so takes no initial value", variable.space);
                return self.fail_at(token, Reason::Invalid, message);
            }
            if matches!(variable.ty, Type::F16 | Type::F16x2 | Type::B128) {
                let message = format!(".{} takes no initial value; use .b16 or .b32", variable.ty);
                return self.fail_at(token, Reason::Invalid, message);
            }
            self.initializer(token, &mut variable)?;
        }
        if variable.bytes == 0 && variable.linkage != Linkage::Extern {
            let message = format!("`{}` has no size and is not .extern", variable.name);
            return self.fail_at(token, Reason::Invalid, message);
        }
        let table = match symbol {
            super::SymbolId::Local(_) => self.function.as_mut().map(|f| &mut f.variables),
            _ => Some(&mut self.module.variables),
        };
        let (super::SymbolId::Local(i) | super::SymbolId::Module(i)) = symbol else { return Err(Failed) };
        if let Some(slot) = table.and_then(|t| t.get_mut(i as usize)) {
            // A definition wins over an earlier `.extern`; an `.extern` after the definition adds nothing.
            if variable.linkage != Linkage::Extern || slot.linkage == Linkage::Extern {
                *slot = variable;
            }
        }
        Ok(())
    }

    /// `= value`, `= {a, b}`, nested once per dimension (and once more for a vector).
    fn initializer(&mut self, token: Token, variable: &mut Variable) -> Result<(), Failed> {
        let mut counts: Vec<Option<u64>> = variable.dims.clone();
        if variable.vector > 1 {
            counts.push(Some(u64::from(variable.vector)));
        }
        let mut values = Vec::new();
        let first = self.initializer_level(variable, &counts, 0, 0, &mut values)?;
        if let Some(dim @ None) = variable.dims.first_mut() {
            *dim = Some(first);
            let shape = Shape { align: None, vector: variable.vector, ty: variable.ty, managed: false };
            let dims = variable.dims.clone();
            variable.bytes = self.size_of(token, shape, &dims)?;
        }
        if variable.bytes > limits::IMAGE_BYTES {
            let message = format!("an initialised variable larger than {} bytes", limits::IMAGE_BYTES);
            return self.fail_at(token, Reason::Limit, message);
        }
        variable.init = Some(Initializer { values });
        Ok(())
    }

    /// One brace level, or one value at the innermost; returns how many entries this level held.
    fn initializer_level(
        &mut self,
        variable: &Variable,
        counts: &[Option<u64>],
        level: usize,
        base: u64,
        values: &mut Vec<(u64, InitValue)>,
    ) -> Result<u64, Failed> {
        if level == counts.len() {
            let value = self.init_value(variable.ty)?;
            values.push((base, value));
            return Ok(1);
        }
        // Elements below one entry of this level. An open first dimension has only closed ones below.
        let stride: u64 = counts[level + 1..].iter().map(|c| c.unwrap_or(1)).product();
        self.expect(b'{')?;
        let mut n = 0u64;
        while !self.at(b'}') {
            if counts[level].is_some_and(|count| n >= count) {
                return self.fail(Reason::Invalid, "more initial values than elements".into());
            }
            self.initializer_level(variable, counts, level + 1, base.saturating_add(n * stride), values)?;
            n += 1;
            if n.saturating_mul(stride) > limits::IMAGE_BYTES {
                return self.fail(Reason::Limit, "too many initial values".into());
            }
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b'}')?;
        if variable.vector > 1 && level + 1 == counts.len() && Some(n) != counts[level] {
            return self
                .fail(Reason::Invalid, "a vector takes exactly as many values as it has elements".into());
        }
        Ok(n)
    }

    /// A constant, an address (`x`, `x+4`, `generic(x)`), or one byte of an address (`0xFF00(x)`).
    fn init_value(&mut self, ty: Type) -> Result<InitValue, Failed> {
        let at = self.token;
        if self.token.kind == Kind::Ident && self.text(at) != "WARP_SZ" {
            return self.init_address(ty, None);
        }
        let value = self.expression()?;
        if self.at(b'(') {
            let Value::Int { bits: mask, .. } = value else {
                return self.fail_at(at, Reason::Invalid, "a mask must be an integer".into());
            };
            self.advance();
            let value = self.init_address(ty, Some((at, mask)))?;
            self.expect(b')')?;
            return Ok(value);
        }
        let immediate = value.immediate();
        let fits = match value {
            Value::Int { .. } => !ty.is_float(),
            _ => ty.is_float() || !ty.is_integer(),
        };
        if !fits {
            return self.fail_at(at, Reason::Invalid, format!("this constant is no initial value for .{ty}"));
        }
        // Bits take the constant's own representation; floats are rounded to the element.
        Ok(InitValue::Bits(immediate.bits(if ty == Type::B32 && matches!(value, Value::Float(_)) {
            Type::F32
        } else {
            ty
        })))
    }

    fn init_address(&mut self, ty: Type, mask: Option<(Token, u64)>) -> Result<InitValue, Failed> {
        let mut token = self.token;
        let mut name = self.identifier("a variable's name")?;
        let generic = name == "generic" && self.eat(b'(');
        if generic {
            token = self.token;
            name = self.identifier("a variable's name")?;
            self.expect(b')')?;
        }
        let symbol = match self.lookup(name) {
            Some(Entity::Variable(symbol)) => symbol,
            Some(Entity::Function(id)) => super::SymbolId::Function(id),
            _ => {
                return self.fail_at(
                    token,
                    Reason::Invalid,
                    format!("`{name}` is nothing that has an address yet"),
                );
            }
        };
        if self.variable(symbol).is_some_and(|v| !matches!(v.space, Space::Global | Space::Const)) {
            return self.fail_at(
                token,
                Reason::Invalid,
                "only .global and .const variables can be initial values".into(),
            );
        }
        let offset = if self.eat(b'+') { self.integer_expression()? as i64 } else { 0 };
        let shift = match mask {
            None if matches!(ty.bits(), 32 | 64) && !ty.is_float() => 0,
            Some((_, mask))
                if ty.bits() == 8 && mask != 0 && mask == 0xFF << (mask.trailing_zeros() & !7) =>
            {
                mask.trailing_zeros()
            }
            Some((at, _)) => {
                return self.fail_at(
                    at,
                    Reason::Invalid,
                    "a mask picks one byte (0xFF, 0xFF00, ...) of an 8-bit element".into(),
                );
            }
            None => return self.fail_at(token, Reason::Invalid, format!("an address does not fit .{ty}")),
        };
        Ok(InitValue::Address { symbol, offset, generic, shift })
    }

    /// The `N` of `%r<N>`: one constant, since `>` would go on as an expression.
    fn range_count(&mut self) -> Result<u64, Failed> {
        let at = self.token;
        match self.unary(0)? {
            Value::Int { bits, .. } => Ok(bits),
            _ => self.fail_at(at, Reason::Invalid, "the number of registers is an integer".into()),
        }
    }

    /// `.reg .v4 .f32 %v<8>, x;`
    pub(super) fn registers(&mut self) -> Result<(), Failed> {
        self.advance();
        let at = self.token;
        let shape = self.shape()?;
        if shape.align.is_some() || shape.managed {
            return self.fail_at(
                at,
                Reason::Invalid,
                "a register has neither alignment nor attributes".into(),
            );
        }
        let (ty, vector) = (shape.ty, shape.vector);
        loop {
            let token = self.token;
            let name = self.identifier("a register's name")?;
            if self.eat(b'<') {
                let count = self.range_count()?;
                self.expect(b'>')?;
                if count > limits::REGISTER_RANGE {
                    let message =
                        format!("more than {} registers in one declaration", limits::REGISTER_RANGE);
                    return self.fail_at(token, Reason::Limit, message);
                }
                if let Some(n) = self.scope().collides(name, count) {
                    let message = format!("`{name}{n}` is declared twice in this scope");
                    return self.fail_at(token, Reason::Invalid, message);
                }
                let range = Range { count, ty, vector, mentioned: Default::default() };
                self.scope().ranges.insert(name, range);
            } else {
                self.declare(token, Entity::Register { ty, vector, first: None })?;
            }
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')
    }
}

/// The types that a variable or a register can have; the others only tell an instruction how to read one.
fn declarable(ty: Type) -> bool {
    use Type::*;
    matches!(
        ty,
        Pred | B8
            | U8
            | S8
            | B16
            | U16
            | S16
            | B32
            | U32
            | S32
            | B64
            | U64
            | S64
            | B128
            | F16
            | F16x2
            | F32
            | F64
    )
}
