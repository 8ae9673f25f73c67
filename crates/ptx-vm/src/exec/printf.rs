//! `printf` as C has it, for the conversions that device code may use (CUDA programming guide, "Formatted output").
use std::iter::Peekable;
use std::str::Chars;

/// `%-+ 0#`, width, precision, size, and the letter.
#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    /// Bits of an integer argument as it is printed: 8 for `hh`, 16 for `h`, 64 for `l`, else 32.
    bits: u32,
    letter: char,
}

/// Formats with arguments from `next` (given their bytes, 4 or 8) and strings by address from `string`; the text and
/// the number of arguments.
pub(super) fn format(
    format: &str,
    next: &mut dyn FnMut(u64) -> u64,
    string: &dyn Fn(u64) -> String,
) -> (String, u64) {
    let mut out = String::new();
    let mut count = 0;
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let Some(spec) = parse(&mut rest, &mut || next(4) as i32, &mut count) else { break };
        if spec.letter == '%' {
            out.push('%');
            continue;
        }
        count += 1;
        let wide = spec.bits == 64 || "pseEfFgGaA".contains(spec.letter);
        let value = next(if wide { 8 } else { 4 });
        let (prefix, body) = match spec.letter {
            'c' => (String::new(), char::from(value as u8).to_string()),
            's' => {
                (String::new(), string(value).chars().take(spec.precision.unwrap_or(usize::MAX)).collect())
            }
            'p' => ("0x".to_string(), format!("{value:x}")),
            'd' | 'i' | 'u' | 'o' | 'x' | 'X' => integer(&spec, value),
            _ => float(&spec, f64::from_bits(value)),
        };
        pad(&mut out, &spec, &prefix, &body);
    }
    (out, count)
}

/// Reads what follows a `%`; `star` is the argument of a `*`. `None` at the end of the text.
fn parse(rest: &mut Peekable<Chars>, star: &mut dyn FnMut() -> i32, count: &mut u64) -> Option<Spec> {
    let mut spec = Spec { bits: 32, ..Spec::default() };
    while let Some(flag) = rest.next_if(|c| "-+ 0#".contains(*c)) {
        match flag {
            '-' => spec.left = true,
            '+' => spec.plus = true,
            ' ' => spec.space = true,
            '0' => spec.zero = true,
            _ => spec.alternate = true,
        }
    }
    if rest.next_if_eq(&'*').is_some() {
        *count += 1;
        let width = star();
        spec.left |= width < 0;
        spec.width = width.unsigned_abs() as usize;
    } else {
        spec.width = number(rest);
    }
    if rest.next_if_eq(&'.').is_some() {
        spec.precision = Some(number(rest));
    }
    while let Some(size) = rest.next_if(|c| "hlzjt".contains(*c)) {
        spec.bits = match (size, spec.bits) {
            ('h', 16) => 8,
            ('h', _) => 16,
            _ => 64,
        };
    }
    spec.letter = rest.next()?;
    // No buffer of a device holds more.
    spec.width = spec.width.min(1 << 16);
    spec.precision = spec.precision.map(|p| p.min(1 << 16));
    Some(spec)
}

fn number(rest: &mut Peekable<Chars>) -> usize {
    let mut n = 0usize;
    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
        n = n.saturating_mul(10).saturating_add(digit as usize);
        rest.next();
    }
    n
}

/// Sign or radix prefix, and digits.
fn integer(spec: &Spec, value: u64) -> (String, String) {
    let up = 64 - spec.bits;
    let (signed, unsigned) = ((value << up) as i64 >> up, value << up >> up);
    let (mut prefix, mut digits) = match spec.letter {
        'o' => (String::new(), format!("{unsigned:o}")),
        'x' => ((if spec.alternate && unsigned != 0 { "0x" } else { "" }).into(), format!("{unsigned:x}")),
        'X' => ((if spec.alternate && unsigned != 0 { "0X" } else { "" }).into(), format!("{unsigned:X}")),
        'u' => (String::new(), unsigned.to_string()),
        _ => (sign(spec, signed < 0), signed.unsigned_abs().to_string()),
    };
    match spec.precision {
        Some(0) if unsigned == 0 => digits.clear(),
        Some(precision) => digits = format!("{digits:0>precision$}"),
        None => {}
    }
    if spec.letter == 'o' && spec.alternate && !digits.starts_with('0') {
        prefix = "0".into();
    }
    (prefix, digits)
}

fn sign(spec: &Spec, negative: bool) -> String {
    let text = match () {
        () if negative => "-",
        () if spec.plus => "+",
        () if spec.space => " ",
        () => "",
    };
    text.into()
}

fn float(spec: &Spec, value: f64) -> (String, String) {
    let mut prefix = sign(spec, value.is_sign_negative());
    let magnitude = value.abs();
    let upper = spec.letter.is_ascii_uppercase();
    let precision = spec.precision.unwrap_or(6);
    let body = match spec.letter.to_ascii_lowercase() {
        _ if value.is_nan() => "nan".into(),
        _ if value.is_infinite() => "inf".into(),
        'e' => exponential(magnitude, precision, spec.alternate),
        'g' => general(magnitude, precision.max(1), spec.alternate),
        'a' => {
            prefix.push_str(if upper { "0X" } else { "0x" });
            hexadecimal(magnitude, spec.precision)
        }
        _ => format!("{magnitude:.precision$}") + if spec.alternate && precision == 0 { "." } else { "" },
    };
    (prefix, if upper { body.to_uppercase() } else { body })
}

/// `1.5e+00`: the exponent has a sign and at least two digits.
fn exponential(v: f64, precision: usize, point: bool) -> String {
    let text = format!("{v:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let point = if point && precision == 0 { "." } else { "" };
    let minus = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}{point}e{minus}{:02}", exponent.unsigned_abs())
}

/// `precision` significant digits, in the shorter notation, without the zeros at the end.
fn general(v: f64, precision: usize, keep_zeros: bool) -> String {
    let digits = precision - 1;
    let rounded = format!("{v:.digits$e}");
    let exponent: i32 = rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |text: String| match keep_zeros || !text.contains('.') {
        true => text,
        false => text.trim_end_matches('0').trim_end_matches('.').to_string(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = exponential(v, digits, keep_zeros);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trim(mantissa.to_string()));
    }
    trim(format!("{v:.*}", (digits as i32 - exponent).max(0) as usize))
}

/// `1.8p+1`, without the `0x`.
fn hexadecimal(v: f64, precision: Option<usize>) -> String {
    let bits = v.to_bits();
    let (mut mantissa, exponent) = match (bits >> 52, bits & ((1 << 52) - 1)) {
        (0, 0) => (0, 0),
        (0, subnormal) => (subnormal, -1022),
        (e, m) => (m | 1 << 52, e as i32 - 1023),
    };
    let digits = match precision {
        Some(n) if n < 13 => {
            // To nearest, ties to even.
            let drop = 52 - 4 * n as u32;
            let (rest, half) = (mantissa & ((1 << drop) - 1), 1u64 << (drop - 1));
            mantissa >>= drop;
            mantissa += u64::from(rest > half || rest == half && mantissa & 1 == 1);
            mantissa <<= drop;
            n
        }
        Some(n) => n,
        None => 13 - (mantissa.trailing_zeros().min(52) / 4) as usize,
    };
    let fraction = format!("{:013x}{:0>1$}", mantissa & ((1 << 52) - 1), digits.saturating_sub(13));
    let point = if digits > 0 { "." } else { "" };
    format!("{}{point}{}p{exponent:+}", mantissa >> 52, &fraction[..digits])
}

fn pad(out: &mut String, spec: &Spec, prefix: &str, body: &str) {
    let fill = spec.width.saturating_sub(prefix.chars().count() + body.chars().count());
    // Zeros fill numbers only, and integers only where no precision says how many digits there are.
    let is_number = !"csp".contains(spec.letter) && !matches!(body, "inf" | "INF" | "nan" | "NAN");
    let counted = "diouxX".contains(spec.letter) && spec.precision.is_some();
    let zeros = spec.zero && !spec.left && is_number && !counted;
    match (spec.left, zeros) {
        (true, _) => out.extend([prefix, body, &" ".repeat(fill)]),
        (false, true) => out.extend([prefix, &"0".repeat(fill), body]),
        (false, false) => out.extend([&" ".repeat(fill), prefix, body]),
    }
}

#[cfg(test)]
mod tests {
    /// Integers as they are, floats by their bits; an address 1 is the string `text`.
    fn print(format: &str, arguments: &[u64]) -> (String, u64) {
        let mut left = arguments.iter();
        let mut next = |_| *left.next().expect("no more arguments than there are");
        let printed = super::format(format, &mut next, &|_| "text".to_string());
        assert!(left.next().is_none(), "{format}: arguments are left");
        printed
    }

    #[test]
    fn integers_print_as_in_c() {
        for (format, value, text) in [
            ("%d", -5i64, "-5"),
            ("%i|", 7, "7|"),
            ("%5d|%%", 42, "   42|%"),
            ("%-5d|", 42, "42   |"),
            ("%05d", -42, "-0042"),
            ("%+d", 42, "+42"),
            ("% d", 42, " 42"),
            ("%.4d", -42, "-0042"),
            ("%8.4d|", -42, "   -0042|"),
            ("%08.4d|", 42, "    0042|"),
            ("%.0d|", 0, "|"),
            ("%u", -1, "4294967295"),
            ("%lu", -1, "18446744073709551615"),
            ("%lld", -1, "-1"),
            ("%hd", 65537, "1"),
            ("%hhd", 255, "-1"),
            ("%hhu", 511, "255"),
            ("%x", 48879, "beef"),
            ("%X", 48879, "BEEF"),
            ("%#x", 48879, "0xbeef"),
            ("%#010x", 48879, "0x0000beef"),
            ("%#x", 0, "0"),
            ("%o", 8, "10"),
            ("%#o", 8, "010"),
            ("%c%%", 65, "A%"),
            ("%3c|", 65, "  A|"),
            ("%p", 4096, "0x1000"),
            ("%s!", 1, "text!"),
            ("%6s|", 1, "  text|"),
            ("%-6.2s|", 1, "te    |"),
        ] {
            assert_eq!(print(format, &[value as u64]), (text.to_string(), 1), "{format} of {value}");
        }
        assert_eq!(print("%*d|%-*d|", &[4, 7, 3, 8]), ("   7|8  |".into(), 4));
        assert_eq!(print("no arguments, 100%%", &[]), ("no arguments, 100%".into(), 0));
        assert_eq!(print("cut at %", &[]), ("cut at ".into(), 0));
    }

    #[test]
    fn floats_print_as_in_c() {
        for (format, value, text) in [
            ("%f", 1.5, "1.500000"),
            ("%.2f", -0.125, "-0.12"),
            ("%8.3f|", 3.25159, "   3.252|"),
            ("%08.3f|", -3.25159, "-003.252|"),
            ("%+.1f", 2.0, "+2.0"),
            ("%.0f", 2.5, "2"),
            ("%#.0f", 3.0, "3."),
            ("%e", 12345.678, "1.234568e+04"),
            ("%.2E", 0.000123, "1.23E-04"),
            ("%.0e", 1e100, "1e+100"),
            ("%g", 0.0001, "0.0001"),
            ("%g", 0.00001, "1e-05"),
            ("%g", 123456.0, "123456"),
            ("%g", 1234567.0, "1.23457e+06"),
            ("%g", 100.0, "100"),
            ("%g", 0.5, "0.5"),
            ("%#g", 0.5, "0.500000"),
            ("%.3g", 999.6, "1e+03"),
            ("%G", 1e-10, "1E-10"),
            ("%g", 0.0, "0"),
            ("%f", f64::INFINITY, "inf"),
            ("%05F|", f64::NEG_INFINITY, " -INF|"),
            ("%5e|", f64::NAN, "  nan|"),
            ("%05f|", f64::NAN, "  nan|"),
            ("%a", 1.0, "0x1p+0"),
            ("%a", -3.0, "-0x1.8p+1"),
            ("%a", 0.1, "0x1.999999999999ap-4"),
            ("%.1a", 1.96875, "0x2.0p+0"),
            ("%.2A", 0.1, "0X1.9AP-4"),
            ("%a", 0.0, "0x0p+0"),
        ] {
            assert_eq!(print(format, &[value.to_bits()]), (text.to_string(), 1), "{format} of {value}");
        }
    }
}
