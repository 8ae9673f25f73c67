//! Constant expressions (ISA section 4.5): C's operators over 64-bit integers and f64, evaluated while parsing.
use super::{Failed, Parser};
use crate::diagnostic::Reason;
use crate::syntax::ast::Immediate;
use crate::syntax::lexer::Kind;
use crate::syntax::limits;

/// The value of a constant expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Int { bits: u64, unsigned: bool },
    Float(f64),
    F32(u32),
}

impl Value {
    fn signed(value: i64) -> Value {
        Value::Int { bits: value as u64, unsigned: false }
    }

    fn truth(condition: bool) -> Value {
        Value::signed(i64::from(condition))
    }

    /// The constant as an operand.
    pub fn immediate(self) -> Immediate {
        match self {
            Value::Int { bits, unsigned } => Immediate::Int { bits, unsigned },
            Value::Float(value) => Immediate::F64(value.to_bits()),
            Value::F32(bits) => Immediate::F32(bits),
        }
    }
}

/// Binary operators by rising precedence: the ternary binds loosest and stands apart.
const LEVELS: &[&[&str]] = &[
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<", "<=", ">", ">="],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

impl<'s> Parser<'s> {
    /// A whole expression.
    pub(super) fn expression(&mut self) -> Result<Value, Failed> {
        self.ternary(0)
    }

    /// An expression that must be an integer, as its 64 bits.
    pub(super) fn integer_expression(&mut self) -> Result<u64, Failed> {
        let at = self.token;
        match self.expression()? {
            Value::Int { bits, .. } => Ok(bits),
            _ => self.fail_at(at, Reason::Invalid, "an integer constant is expected here".into()),
        }
    }

    fn ternary(&mut self, depth: usize) -> Result<Value, Failed> {
        if depth > limits::NESTING {
            return self.fail(Reason::Limit, format!("an expression nests deeper than {}", limits::NESTING));
        }
        let condition = self.binary(0, depth)?;
        if !self.eat(b'?') {
            return Ok(condition);
        }
        let at = self.token;
        let yes = self.ternary(depth + 1)?;
        self.expect(b':')?;
        let no = self.ternary(depth + 1)?;
        match condition {
            Value::Int { bits, .. } => Ok(if bits != 0 { yes } else { no }),
            _ => self.fail_at(at, Reason::Invalid, "the condition of ?: must be an integer".into()),
        }
    }

    /// The binary operator at the current token, if it belongs to this level.
    fn operator(&self, level: usize) -> Option<&'static str> {
        let text = match self.token.kind {
            Kind::Punct(_) | Kind::Double(..) => self.text(self.token),
            _ => return None,
        };
        LEVELS[level].iter().copied().find(|op| *op == text)
    }

    fn binary(&mut self, level: usize, depth: usize) -> Result<Value, Failed> {
        if level == LEVELS.len() {
            return self.unary(depth);
        }
        let mut left = self.binary(level + 1, depth)?;
        while let Some(op) = self.operator(level) {
            let at = self.token;
            self.advance();
            let right = self.binary(level + 1, depth)?;
            left = match combine(op, left, right) {
                Ok(value) => value,
                Err(what) => return self.fail_at(at, Reason::Invalid, what.into()),
            };
        }
        Ok(left)
    }

    pub(super) fn unary(&mut self, depth: usize) -> Result<Value, Failed> {
        if depth > limits::NESTING {
            return self.fail(Reason::Limit, format!("an expression nests deeper than {}", limits::NESTING));
        }
        let at = self.token;
        let sign = match at.kind {
            Kind::Punct(c @ (b'-' | b'+' | b'!' | b'~')) => c,
            _ => return self.primary(depth),
        };
        self.advance();
        let value = self.unary(depth + 1)?;
        match (sign, value) {
            (b'+', Value::Int { .. } | Value::Float(_)) => Ok(value),
            (b'-', Value::Int { bits, unsigned }) => Ok(Value::Int { bits: bits.wrapping_neg(), unsigned }),
            (b'-', Value::Float(x)) => Ok(Value::Float(-x)),
            (b'!', Value::Int { bits, .. }) => Ok(Value::truth(bits == 0)),
            (b'~', Value::Int { bits, unsigned }) => Ok(Value::Int { bits: !bits, unsigned }),
            _ => self.fail_at(
                at,
                Reason::Invalid,
                format!("`{}` cannot be applied to this constant", sign as char),
            ),
        }
    }

    fn primary(&mut self, depth: usize) -> Result<Value, Failed> {
        let token = self.token;
        let text = self.text(token);
        match token.kind {
            Kind::Int => {
                self.advance();
                match integer(text) {
                    Some(value) => Ok(value),
                    None => self.fail_at(token, Reason::Invalid, format!("`{text}` does not fit 64 bits")),
                }
            }
            Kind::Float => {
                self.advance();
                match text.parse::<f64>() {
                    Ok(value) if value.is_finite() => Ok(Value::Float(value)),
                    _ => self.fail_at(token, Reason::Invalid, format!("`{text}` does not fit an f64")),
                }
            }
            Kind::HexF32 => {
                self.advance();
                Ok(Value::F32(u32::from_str_radix(&text[2..], 16).unwrap_or(0)))
            }
            Kind::HexF64 => {
                self.advance();
                Ok(Value::Float(f64::from_bits(u64::from_str_radix(&text[2..], 16).unwrap_or(0))))
            }
            Kind::Ident if text == "WARP_SZ" => {
                self.advance();
                Ok(Value::signed(32))
            }
            Kind::Punct(b'(') => self.parenthesis(depth),
            _ => self.fail_at(
                token,
                Reason::Syntax,
                format!("a constant is expected, not {}", self.describe(token)),
            ),
        }
    }

    /// `(expression)`, or a cast `(.s64) operand`.
    fn parenthesis(&mut self, depth: usize) -> Result<Value, Failed> {
        self.advance();
        let at = self.token;
        let unsigned = match (at.kind, self.text(at)) {
            (Kind::Dot, ".s64") => false,
            (Kind::Dot, ".u64") => true,
            _ => {
                let value = self.ternary(depth + 1)?;
                self.expect(b')')?;
                return Ok(value);
            }
        };
        self.advance();
        self.expect(b')')?;
        match self.unary(depth + 1)? {
            Value::Int { bits, .. } => Ok(Value::Int { bits, unsigned }),
            _ => self.fail_at(at, Reason::Invalid, "only integer constants can be cast".into()),
        }
    }
}

/// `123`, `0x7F`, `017`, `0b101`, each with an optional `U`; unsigned also when it needs the 64th bit.
fn integer(text: &str) -> Option<Value> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', b'b', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    let bits = u64::from_str_radix(digits, radix).ok()?;
    Some(Value::Int { bits, unsigned: lower.ends_with('u') || bits > i64::MAX as u64 })
}

/// Applies a binary operator; both sides must be of one kind. Shifts beyond 63 give what all bits shifted out give.
fn combine(op: &str, left: Value, right: Value) -> Result<Value, &'static str> {
    match (left, right) {
        (Value::Int { bits: a, unsigned: ua }, Value::Int { bits: b, unsigned: ub }) => {
            integers(op, (a, ua), (b, ub)).ok_or("division by zero in a constant expression")
        }
        (Value::Float(a), Value::Float(b)) => {
            floats(op, a, b).ok_or("this operator takes integers, not floating-point constants")
        }
        _ => Err("the two sides of this operator are of different kinds"),
    }
}

fn integers(op: &str, (a, ua): (u64, bool), (b, ub): (u64, bool)) -> Option<Value> {
    let unsigned = ua || ub;
    let value = |bits: u64| Some(Value::Int { bits, unsigned });
    let (sa, sb) = (a as i64, b as i64);
    let less = if unsigned { a < b } else { sa < sb };
    match op {
        "+" => value(a.wrapping_add(b)),
        "-" => value(a.wrapping_sub(b)),
        "*" => value(a.wrapping_mul(b)),
        "/" | "%" if b == 0 => None,
        "/" if unsigned => value(a / b),
        "/" => value(sa.wrapping_div(sb) as u64),
        "%" if unsigned => value(a % b),
        "%" => value(sa.wrapping_rem(sb) as u64),
        "&" => value(a & b),
        "|" => value(a | b),
        "^" => value(a ^ b),
        "<<" => Some(Value::Int { bits: if b > 63 { 0 } else { a << b }, unsigned: ua }),
        ">>" if ua => Some(Value::Int { bits: if b > 63 { 0 } else { a >> b }, unsigned: true }),
        ">>" => Some(Value::signed(sa >> b.min(63))),
        "&&" => Some(Value::truth(a != 0 && b != 0)),
        "||" => Some(Value::truth(a != 0 || b != 0)),
        "==" => Some(Value::truth(a == b)),
        "!=" => Some(Value::truth(a != b)),
        "<" => Some(Value::truth(less)),
        ">=" => Some(Value::truth(!less)),
        ">" => Some(Value::truth(!less && a != b)),
        _ => Some(Value::truth(less || a == b)),
    }
}

fn floats(op: &str, a: f64, b: f64) -> Option<Value> {
    Some(match op {
        "+" => Value::Float(a + b),
        "-" => Value::Float(a - b),
        "*" => Value::Float(a * b),
        "/" => Value::Float(a / b),
        "==" => Value::truth(a == b),
        "!=" => Value::truth(a != b),
        "<" => Value::truth(a < b),
        "<=" => Value::truth(a <= b),
        ">" => Value::truth(a > b),
        ">=" => Value::truth(a >= b),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Value>) {
        let mut parser = Parser::new("test", text);
        let value = parser.expression().ok().filter(|_| parser.token.kind == Kind::End);
        assert_eq!(value, expected, "{text}");
    }

    #[test]
    fn literals() {
        check("0x1F", Some(Value::signed(31)));
        check("017", Some(Value::signed(15)));
        check("0b101U", Some(Value::Int { bits: 5, unsigned: true }));
        check("18446744073709551615", Some(Value::Int { bits: u64::MAX, unsigned: true }));
        check("18446744073709551616", None);
        check("0f3F800000", Some(Value::F32(0x3F80_0000)));
        check("0dBFF0000000000000", Some(Value::Float(-1.0)));
        check(".5", Some(Value::Float(0.5)));
        check("5.", Some(Value::Float(5.0)));
        check("25e-1", Some(Value::Float(2.5)));
        check("1e400", None);
        check("019", None);
        check("0f3F80", None);
        check("WARP_SZ", Some(Value::signed(32)));
    }

    #[test]
    fn operators_bind_as_in_c() {
        check("1 << 4 | 3", Some(Value::signed(19)));
        check("2 + 3 * 4", Some(Value::signed(14)));
        check("(2 + 3) * 4", Some(Value::signed(20)));
        check("-7 / 2", Some(Value::signed(-3)));
        check("1 ? 2 : 3", Some(Value::signed(2)));
        check("0 ? 2 : 0 ? 4 : 5", Some(Value::signed(5)));
        check("1 < 2 && 3 != 4", Some(Value::truth(true)));
        check("-1 < 0U", Some(Value::truth(false)));
        check("~0 >> 70", Some(Value::signed(-1)));
        check("!3", Some(Value::signed(0)));
        check("(.u64) -1 > 5", Some(Value::truth(true)));
        check("1.5 + 2.5 * 2.0", Some(Value::Float(6.5)));
    }

    #[test]
    fn kinds_do_not_mix_and_zero_does_not_divide() {
        check("1 + 1.0", None);
        check("1 / 0", None);
        check("-0f3F800000", None);
        check("0f3F800000 + 1.0", None);
        check("1.5 << 2.0", None);
    }

    #[test]
    fn deep_nesting_is_refused_not_overflowed() {
        check(&"(".repeat(100_000), None);
        check(&"-".repeat(100_000), None);
    }
}
