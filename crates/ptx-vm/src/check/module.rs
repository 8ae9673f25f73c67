//! The whole module: every instruction, every call against its callee's signature, nothing left undefined.
use super::operands::{Context, Finding, constant_fits, register_fits};
use crate::diagnostic::{Diagnostic, LoadError, MAX_DIAGNOSTICS, Reason};
use crate::syntax::ast::*;

/// Functions that the machine provides when a module declares them `.extern` and defines them nowhere.
pub const BUILTINS: &[&str] = &["vprintf", "__assertfail", "malloc", "free"];

/// Holds every instruction of a parsed module against the instruction table and every call against its callee.
///
/// # Errors
/// Every finding with its place.
pub fn check(module: &Module) -> Result<(), LoadError> {
    let mut diagnostics = Vec::new();
    for function in &module.functions {
        check_function(module, function, &mut diagnostics);
        if diagnostics.len() >= MAX_DIAGNOSTICS {
            break;
        }
    }
    match diagnostics.is_empty() {
        true => Ok(()),
        false => Err(LoadError { file: module.name.clone(), diagnostics }),
    }
}

/// Parses a module and checks all of it: what comes out is legal for its `.version` and `.target`.
///
/// # Errors
/// Every finding of the first stage that has any.
pub fn compile(name: &str, source: &str) -> Result<Module, LoadError> {
    let module = crate::syntax::parse(name, source)?;
    check(&module)?;
    Ok(module)
}

/// The most bytes of an entry's parameters.
fn parameter_limit(module: &Module) -> u64 {
    let large = (module.version.major, module.version.minor) >= (8, 1) && module.target.sm >= 70;
    if large { 32764 } else { 4352 }
}

fn check_function(module: &Module, function: &Function, diagnostics: &mut Vec<Diagnostic>) {
    let mut whole = |message: String| {
        diagnostics.push(Diagnostic {
            reason: Reason::Invalid,
            span: function.span,
            message,
            text: String::new(),
        });
    };
    let Some(body) = &function.body else {
        if function.linkage != Linkage::Extern {
            whole(format!("`{}` is declared but defined nowhere", function.name));
        }
        return;
    };
    if function.kind == FunctionKind::Entry {
        let (bytes, _) = crate::layout::parameters(function);
        let limit = parameter_limit(module);
        if bytes > limit {
            whole(format!("`{}` takes {bytes} bytes of parameters; the limit is {limit}", function.name));
        }
    }
    let context = Context { module, function };
    for instr in &body.instrs {
        let result = match &instr.call {
            Some(call) => check_call(&context, instr, call),
            None => context.check(instr, &module.heads[instr.head as usize]),
        };
        if let Err(Finding { span, reason, message }) = result {
            diagnostics.push(Diagnostic { reason, span, message, text: module.text_of(instr) });
            if diagnostics.len() >= MAX_DIAGNOSTICS {
                return;
            }
        }
    }
}

/// A call against the signature of what it calls.
fn check_call(context: &Context, instr: &Instr, call: &Call) -> Result<(), Finding> {
    let invalid = |message: String| Err(Finding { span: instr.span, reason: Reason::Invalid, message });
    let signatures = |f: &Function| -> (Vec<Signature>, Vec<Signature>) {
        (
            f.returns.iter().map(|&r| f.signature(r)).collect(),
            f.params.iter().map(|&p| f.signature(p)).collect(),
        )
    };
    let (returns, params) = match &call.target {
        CallTarget::Direct(id) => {
            let callee = &context.module.functions[id.0 as usize];
            if callee.kind == FunctionKind::Entry {
                return invalid(format!("`{}` is an entry; only a .func can be called", callee.name));
            }
            let builtin = callee.linkage == Linkage::Extern && BUILTINS.contains(&callee.name.as_str());
            if callee.body.is_none() && !builtin {
                return invalid(format!("`{}` is declared but defined nowhere", callee.name));
            }
            signatures(callee)
        }
        CallTarget::Indirect { reg, prototype, candidates } => {
            let ty = context.function.registers[reg.0 as usize].ty;
            if !register_fits(ty, Type::U64, false) {
                return invalid(format!("an indirect call goes through a 64-bit register, not .{ty}"));
            }
            match (prototype, candidates.as_deref()) {
                (Some(p), _) => {
                    let prototype = &context.function.prototypes[*p as usize];
                    (prototype.returns.clone(), prototype.params.clone())
                }
                (None, Some([first, ..])) => signatures(&context.module.functions[first.0 as usize]),
                (None, _) => return invalid("the list of call targets is empty".into()),
            }
        }
    };
    if call.returns.len() != returns.len() {
        return invalid(format!("the function returns {} values, not {}", returns.len(), call.returns.len()));
    }
    if call.args.len() != params.len() {
        return invalid(format!("the function takes {} arguments, not {}", params.len(), call.args.len()));
    }
    for (operand, signature) in call.returns.iter().zip(&returns) {
        argument(context, operand, *signature, true)?;
    }
    for (operand, signature) in call.args.iter().zip(&params) {
        argument(context, operand, *signature, false)?;
    }
    Ok(())
}

/// One actual argument or place for a result.
fn argument(context: &Context, operand: &Operand, formal: Signature, written: bool) -> Result<(), Finding> {
    let fail = |message: String| Err(Finding { span: operand.span, reason: Reason::Invalid, message });
    match &operand.kind {
        OperandKind::Symbol { symbol: SymbolId::Local(i), offset: 0 } => {
            let v = &context.function.variables[*i as usize];
            // An open array takes any block of bytes.
            let same = formal.bytes == 0 || v.bytes == formal.bytes;
            if v.space != Space::Param || !same {
                return fail(format!(
                    "`{}` does not match the parameter (.{}, {} bytes)",
                    v.name, formal.ty, formal.bytes
                ));
            }
            Ok(())
        }
        OperandKind::Register(reg) => {
            let have = context.function.registers[reg.0 as usize].ty;
            match register_fits(have, formal.ty, false) && formal.bytes == formal.ty.bytes() as u64 {
                true => Ok(()),
                false => fail(format!("the parameter is .{}, the register .{have}", formal.ty)),
            }
        }
        OperandKind::Immediate(value) if !written => match constant_fits(*value, formal.ty) {
            true => Ok(()),
            false => fail(format!("this constant is no .{}", formal.ty)),
        },
        OperandKind::Sink if written => Ok(()),
        _ => fail("an argument is a .param variable, a register or a constant".into()),
    }
}
