//! The linker: PTX texts of several modules become one.
//!
//! One head (the newest version and target), and one linkage for what one module defines and another declares `.extern`:
//! a prototype takes the definition's linkage, so that it becomes its forward declaration; a declared variable goes, and
//! the module that defines it comes first. Everything else is for the compiler to judge.
use crate::{
    image::{Image, directive, numbers},
    result::{Code, Result},
};
use std::{collections::BTreeMap, ops::Range};

/// What modules can define for others: the name with the definition's linkage.
type Defined = BTreeMap<String, &'static str>;

/// Joins PTX texts into one module.
pub fn join(images: &[Image]) -> Result<Image> {
    let newest = |name: &str| {
        images.iter().filter_map(|i| directive(&i.text, name)).max_by_key(|value| numbers(value))
    };
    let (Some(version), Some(target)) = (newest(".version"), newest(".target")) else {
        return Err(Code::INVALID_PTX.because("an input has no .version or no .target"));
    };
    let mut defined = Defined::new();
    for image in images {
        let code = without_comments(&image.text);
        defined.extend(exports(&code));
    }
    let mut bodies: Vec<(usize, String)> = images.iter().map(|image| body(&image.text, &defined)).collect();
    // Stable: modules that use no other's variables first.
    bodies.sort_by_key(|(borrowed, _)| *borrowed);
    let mut text = format!(".version {version}\n.target {target}\n.address_size 64\n");
    bodies.iter().for_each(|(_, body)| text.push_str(body));
    let name = images.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join("+");
    Ok(Image { name, text })
}

/// A module without its head, its `.extern` declarations settled; and how many variables of others it uses.
fn body(text: &str, defined: &Defined) -> (usize, String) {
    let code = without_comments(text);
    let mut out = text.to_string();
    let mut borrowed = 0;
    // From the back, so that earlier places stay where they are.
    for statement in statements(&code, ".extern").into_iter().rev() {
        let declared = &code[statement.clone()];
        let Some(linkage) = name(declared).and_then(|n| defined.get(&n)) else { continue };
        if declared.contains(".func") {
            out.replace_range(statement.start..statement.start + ".extern".len(), linkage);
        } else if !declared.contains(".shared") {
            out.replace_range(statement.start..statement.end + 1, "");
            borrowed += 1;
        }
    }
    let head = [".version", ".target", ".address_size"];
    let is_head = |line: &str| head.iter().any(|h| line.trim_start().starts_with(h));
    (borrowed, out.lines().filter(|l| !is_head(l)).flat_map(|l| [l, "\n"]).collect())
}

/// The functions and variables that a module defines for others.
fn exports(code: &str) -> Defined {
    let mut found = Defined::new();
    for linkage in [".visible", ".weak"] {
        for statement in statements(code, linkage) {
            let defines = &code[statement.clone()];
            // A function without a body is a prototype.
            let is_prototype = defines.contains(".func") && code[statement.end..].starts_with(';');
            if !is_prototype && !defines.contains(".entry") {
                found.extend(name(defines).map(|n| (n, linkage)));
            }
        }
    }
    found
}

/// The places of statements that start with a word, each up to its `;`, `{` or `=`.
fn statements(code: &str, word: &str) -> Vec<Range<usize>> {
    let starts = code.match_indices(word).map(|(at, _)| at);
    let whole = starts.filter(|at| !code[at + word.len()..].starts_with(|c: char| c.is_ascii_alphanumeric()));
    whole.filter_map(|at| Some(at..at + code[at..].find([';', '{', '='])?)).collect()
}

/// The name that a declaration declares: the last identifier outside of parentheses and brackets.
fn name(declaration: &str) -> Option<String> {
    let mut depth = 0;
    let outside = |c: char| {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 && !")]".contains(c) { c } else { ' ' }
    };
    let flat: String = declaration.chars().map(outside).collect();
    let identifier = |w: &&str| w.starts_with(|c: char| c.is_ascii_alphabetic() || "_$%".contains(c));
    // `.noreturn` and the like start with a dot; a plain number follows `.align`.
    flat.split_whitespace().rfind(identifier).map(str::to_string)
}

/// The text with comments blanked out, every byte in its place.
fn without_comments(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest {
            [b'"', ..] => {
                rest[1..].iter().position(|&b| b == b'"' || b == b'\n').map_or(rest.len(), |n| n + 2)
            }
            [b'/', b'/', ..] => rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => {
                rest.windows(2).skip(2).position(|w| w == b"*/").map_or(rest.len(), |n| n + 4)
            }
            _ => 1,
        };
        let part = &mut bytes[at..at + length];
        if part.len() > 1 && part[0] == b'/' {
            part.iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        }
        at += length;
    }
    // Whole characters were blanked, so this is still text.
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(texts: &[&str]) -> String {
        let head = |t: &&str| format!(".version 7.8\n.target sm_80\n.address_size 64\n{t}\n");
        let images: Vec<Image> = texts.iter().map(|t| Image { name: "m".into(), text: head(t) }).collect();
        join(&images).unwrap().text
    }

    #[test]
    fn one_head_with_the_newest_version_and_target() {
        let a = Image { name: "a".into(), text: ".version 7.8\n.target sm_80\n.address_size 64\n".into() };
        let text = "  .version 8.10 // newer\n .target sm_86, debug\n.address_size 64\n.global .u32 y;\n";
        let text = join(&[a, Image { name: "b".into(), text: text.into() }]).unwrap().text;
        assert!(text.starts_with(".version 8.10\n.target sm_86, debug\n.address_size 64\n"), "{text}");
        assert_eq!((text.matches(".version").count(), text.matches(".u32 y;").count()), (1, 1));
    }

    #[test]
    fn prototypes_become_forward_declarations() {
        let proto = "// .extern .func f\n.extern .func (.param .b32 r) f(.param .b32 x);";
        let text = joined(&[proto, ".visible .func (.param .b32 r) f(.param .b32 x)\n{ ret; }"]);
        assert!(text.contains("\n.visible .func (.param .b32 r) f(.param .b32 x);"), "{text}");
        assert!(
            joined(&[".extern .func g();", ".func g() { ret; }"]).contains(".extern .func g"),
            "not exported"
        );
        assert!(joined(&[".extern .func h();", ".weak .func h() { ret; }"]).contains(".weak .func h();"));
    }

    #[test]
    fn definitions_of_variables_come_before_their_users() {
        let user = ".extern .global .align 4 .u32 table[4];\n.visible .entry k() { ret; }";
        let text = joined(&[user, ".visible .global .align 4 .u32 table[4] = {1, 2, 3, 4};"]);
        assert!(!text.contains(".extern") && text.find("table[4]") < text.find(".entry k"), "{text}");
        let shared = ".extern .shared .align 16 .b8 pool[];";
        assert!(
            joined(&[shared, ".visible .global .u32 pool;"]).contains(shared),
            "dynamic shared memory stays"
        );
    }
}
