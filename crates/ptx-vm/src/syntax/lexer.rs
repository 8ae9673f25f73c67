//! From bytes to tokens. Comments and white space vanish; nothing is copied.
use super::types::Span;

/// What a token is. Its text is the slice of the source from `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `%r1`, `main`, `_x`, `add`
    Ident,
    /// `.global`, `.L2::128B` (the text includes the dot)
    Dot,
    /// `12`, `0x1F`, `017`, `0b1`, with an optional `U`
    Int,
    /// `1.5`, `2e-3`
    Float,
    /// `0f3F800000`
    HexF32,
    /// `0d3FF0000000000000`
    HexF64,
    /// `"text"` (the text includes the quotes)
    Str,
    /// one of `( ) [ ] { } , ; : + - * / % & | ^ ~ ! ? = < > @ #`
    Punct(u8),
    /// `<< >> && || == != <= >=`, as two characters
    Double(u8, u8),
    /// The end of the source.
    End,
    /// A byte that starts nothing, a broken literal, an open string or comment.
    Bad(&'static str),
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub start: u32,
    pub end: u32,
    pub span: Span,
}

/// Reads tokens one by one.
#[derive(Clone)]
pub(crate) struct Lexer<'s> {
    bytes: &'s [u8],
    at: usize,
    line: u32,
    line_start: usize,
}

/// Letters, digits, `_` and `$`: what continues an identifier.
const FOLLOW: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = (b as u8).is_ascii_alphanumeric() || b == b'_' as usize || b == b'$' as usize;
        b += 1;
    }
    table
};

impl<'s> Lexer<'s> {
    /// Starts at the first byte.
    pub fn new(source: &'s str) -> Lexer<'s> {
        Lexer { bytes: source.as_bytes(), at: 0, line: 1, line_start: 0 }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Skips white space and comments; an open comment is an error.
    fn skip_blank(&mut self) -> Result<(), &'static str> {
        loop {
            match self.peek(0) {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    self.line_start = self.at;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => {
                    while self.at < self.bytes.len() && self.bytes[self.at] != b'\n' {
                        self.at += 1;
                    }
                }
                b'/' if self.peek(1) == b'*' => self.skip_block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), &'static str> {
        self.at += 2;
        loop {
            match self.peek(0) {
                0 if self.at >= self.bytes.len() => return Err("this comment is never closed"),
                b'*' if self.peek(1) == b'/' => {
                    self.at += 2;
                    return Ok(());
                }
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    self.line_start = self.at;
                }
                _ => self.at += 1,
            }
        }
    }

    fn follow(&mut self) {
        while FOLLOW[self.peek(0) as usize] {
            self.at += 1;
        }
    }

    /// The next token; [`Kind::End`] for ever after the last.
    pub fn next(&mut self) -> Token {
        let blank = self.skip_blank();
        let start = self.at;
        let span = Span { line: self.line, column: (start - self.line_start) as u32 + 1 };
        let kind = match blank {
            Err(what) => Kind::Bad(what),
            Ok(()) if start >= self.bytes.len() => Kind::End,
            Ok(()) => self.token(self.bytes[start]),
        };
        Token { kind, start: start as u32, end: self.at as u32, span }
    }

    fn token(&mut self, first: u8) -> Kind {
        match first {
            b'a'..=b'z' | b'A'..=b'Z' => {
                self.follow();
                Kind::Ident
            }
            b'_' | b'$' => {
                self.at += 1;
                self.follow();
                Kind::Ident
            }
            b'%' if FOLLOW[self.peek(1) as usize] => {
                self.at += 1;
                self.follow();
                Kind::Ident
            }
            b'0'..=b'9' => self.number(),
            b'.' => self.dot(),
            b'"' => self.string(),
            _ => self.punct(first),
        }
    }

    fn punct(&mut self, first: u8) -> Kind {
        let second = self.peek(1);
        self.at += 1;
        match (first, second) {
            (b'<', b'<') | (b'>', b'>') | (b'&', b'&') | (b'|', b'|') | (b'=' | b'!' | b'<' | b'>', b'=') => {
                self.at += 1;
                Kind::Double(first, second)
            }
            _ if b"()[]{},;:+-*/%&|^~!?=<>@".contains(&first) => Kind::Punct(first),
            _ => {
                // Step over the rest of a multi-byte character so that slices stay on its boundary.
                while self.peek(0) & 0xC0 == 0x80 {
                    self.at += 1;
                }
                Kind::Bad("this character has no meaning in PTX")
            }
        }
    }

    /// `.word` with any `::word`s, or `.5` where no name precedes.
    fn dot(&mut self) -> Kind {
        let after_name = self.at > 0 && FOLLOW[self.bytes[self.at - 1] as usize];
        if self.peek(1).is_ascii_digit() && !after_name {
            return self.decimal();
        }
        self.at += 1;
        if !FOLLOW[self.peek(0) as usize] {
            return Kind::Bad("a word must follow the dot");
        }
        self.follow();
        while self.peek(0) == b':' && self.peek(1) == b':' && FOLLOW[self.peek(2) as usize] {
            self.at += 2;
            self.follow();
        }
        Kind::Dot
    }

    fn string(&mut self) -> Kind {
        self.at += 1;
        loop {
            match self.peek(0) {
                b'"' => {
                    self.at += 1;
                    return Kind::Str;
                }
                b'\n' => return Kind::Bad("this string is never closed"),
                0 if self.at >= self.bytes.len() => return Kind::Bad("this string is never closed"),
                b'\\' if self.peek(1) != b'\n' && self.at + 1 < self.bytes.len() => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Kind {
        if self.peek(0) == b'0' {
            match self.peek(1) {
                b'f' | b'F' => return self.hex_float(8, Kind::HexF32),
                b'd' | b'D' => return self.hex_float(16, Kind::HexF64),
                b'x' | b'X' => return self.integer(2, |b| b.is_ascii_hexdigit()),
                b'b' | b'B' => return self.integer(2, |b| matches!(b, b'0' | b'1')),
                _ => {}
            }
        }
        self.decimal()
    }

    /// `0f` and exactly `digits` hexadecimal digits.
    fn hex_float(&mut self, digits: usize, kind: Kind) -> Kind {
        self.at += 2;
        let start = self.at;
        self.follow();
        let text = &self.bytes[start..self.at];
        if text.len() == digits && text.iter().all(u8::is_ascii_hexdigit) {
            kind
        } else {
            Kind::Bad("a hexadecimal float has exactly 8 (0f) or 16 (0d) hexadecimal digits")
        }
    }

    /// Digits after a prefix, then an optional `U`.
    fn integer(&mut self, prefix: usize, digit: impl Fn(u8) -> bool) -> Kind {
        self.at += prefix;
        let start = self.at;
        while digit(self.peek(0)) {
            self.at += 1;
        }
        let empty = self.at == start;
        if matches!(self.peek(0), b'U' | b'u') && !empty {
            self.at += 1;
        }
        let clean = !FOLLOW[self.peek(0) as usize];
        self.follow();
        if empty || !clean { Kind::Bad("this is no number") } else { Kind::Int }
    }

    fn decimal(&mut self) -> Kind {
        let start = self.at;
        let digits = |lexer: &mut Self| {
            while lexer.peek(0).is_ascii_digit() {
                lexer.at += 1;
            }
        };
        digits(self);
        let integer_end = self.at;
        if self.peek(0) == b'.' {
            self.at += 1;
            digits(self);
        }
        if matches!(self.peek(0), b'e' | b'E') {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                digits(self);
            }
        }
        if self.at > integer_end {
            let clean = !FOLLOW[self.peek(0) as usize];
            self.follow();
            return if clean { Kind::Float } else { Kind::Bad("this is no number") };
        }
        self.at = start;
        let octal = self.peek(0) == b'0' && self.peek(1).is_ascii_digit();
        self.integer(0, move |b| if octal { (b'0'..=b'7').contains(&b) } else { b.is_ascii_digit() })
    }
}
