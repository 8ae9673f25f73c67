//! Fixtures of the front end: what is said about broken modules and where, and where the variables of whole ones lie.
use ptx_vm::check::compile;
use ptx_vm::diagnostic::Reason;
use ptx_vm::layout::{self, Layout, Region};
use ptx_vm::syntax::ast::{Immediate, OperandKind};

/// The first line of every fixture; its own lines are counted from 2.
const HEAD: &str = ".version 8.0 .target sm_80 .address_size 64\n";

/// Holds the diagnostics against `expected`, one `line:column: message` per line. None are expected of a whole module.
#[track_caller]
fn check(fixture: &str, expected: &str) {
    let found = match compile("t", &format!("{HEAD}{}", fixture.trim_start_matches('\n'))) {
        Ok(_) => String::new(),
        Err(error) => {
            let lines = error.diagnostics.iter().map(|d| format!("{}: {}", d.span, d.message));
            lines.collect::<Vec<_>>().join("\n")
        }
    };
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    assert_eq!(found, expected.join("\n"), "{fixture}");
}

/// `check` for the statements of a kernel, from line 3 on.
#[track_caller]
fn check_body(body: &str, expected: &str) {
    let registers = ".reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %rd<9>;";
    check(
        &format!(".entry k(.param .u64 p0) {{ {registers}\n{}\nret; }}", body.trim_matches('\n')),
        expected,
    );
}

#[track_caller]
fn laid_out(fixture: &str) -> Layout {
    let module = compile("t", &format!("{HEAD}{fixture}")).unwrap_or_else(|e| panic!("{e}"));
    layout::layout(&module).unwrap_or_else(|e| panic!("{e}"))
}

/// The initial bytes of a region, as far as `len`.
fn image(region: &Region, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, piece) in &region.pieces {
        bytes[*at as usize..*at as usize + piece.len()].copy_from_slice(piece);
    }
    bytes
}

#[test]
fn every_broken_statement_is_reported_once() {
    check_body(
        "
    add.f33 %f1, %f2, %f3;
ad.f32 %f1, %f2, %f3;
add.f32 %f1, %f2, %f3;
@%r1 bra L;
add.f32 %f1 %f2, %f3;
L: mov.b32 %r1, %nope;",
        "
        3:5: `.f33` is no modifier or type of `add`
        4:1: `ad` is no instruction
        6:2: `%r1` is no predicate (declare it with .reg .pred)
        7:13: `;` is expected, not `%f2`
        8:17: `%nope` is not declared",
    );
}

#[test]
fn operands_are_checked_once_the_module_is_read() {
    check_body(
        "
add.f32 %f1, %f2;
add.f32 %f1, %f2, %r3;
add.f32 %f1, %f2, 0f3F800000;
add.f32 5, %f2, %f3;
ld.global.v4.f32 {%f1, %f2}, [%rd1];",
        "
        3:1: `add` wants more operands
        6:9: operand 1 of `add` must be a register, not a constant of that kind
        7:18: operand 1 of `ld` must have 4 elements, not 2",
    );
}

#[test]
fn a_broken_vector_ends_no_scope() {
    check_body(
        "
ld.global.v2.f32 {%f1, %nope}, [%rd1];
ld.global.v2.f99 {%f1, %f2}, [%rd1];
{ mov.b33 %r1, {%r1, %r2}; mov.b32 %r1, %nope; }
mov.b32 %r1, {%h1, %h2}}",
        "
        3:24: `%nope` is not declared
        4:1: `.f99` is no modifier or type of `ld`
        5:3: `.b33` is no modifier or type of `mov`
        5:41: `%nope` is not declared
        6:24: `;` is expected, not `}`
        7:1: a directive is expected at module scope, not `ret`
        7:6: a directive is expected at module scope, not `}`",
    );
}

#[test]
fn the_place_is_the_operand() {
    check_body(
        "st.global.b32 [%r1], %r2;",
        "3:15: operand 1 of `st` uses `%r1` (.b32) as an address; it must be a 64-bit integer",
    );
    check_body("ld.global.v2.b32 {%r1, %rd2}, [%rd1];", "");
    check_body("setp.lt.s32 %r1, %r2, %r3;", "3:13: operand 1 of `setp` must be .pred, but `%r1` is .b32");
    check_body(
        "mov.b32 %r1, 0f3F80;",
        "3:14: a hexadecimal float has exactly 8 (0f) or 16 (0d) hexadecimal digits",
    );
    check_body("shl.b32 %r1, %r2, 1.5;", "3:19: operand 3 of `shl` is a constant that is no .u32");
    check_body("cp.async.cg.shared.global [%r1], [%rd1], 7;", "3:42: cp.async.cg copies 16 bytes");
    check_body("mov.b32 %r1, %tid.q;", "3:14: `%tid` has the components .x, .y, .z and .w");
    check_body(
        "add.s32 %r1, %r2, 99999999999999999999;",
        "3:19: `99999999999999999999` does not fit 64 bits",
    );
}

/// Triton writes every load and store with braces.
#[test]
fn braces_around_one_element() {
    check_body("ld.global.b32 { %r1 }, [ %rd1 + 0 ]; @%p1 st.global.b16 [ %rd1 + 0 ], { %h1 };", "");
    check_body("add.s32 {%r1}, %r2, %r3;", "3:9: operand 1 of `add` must be a register, not a vector");
}

#[test]
fn names_have_scopes() {
    check_body("{ .reg .b32 t; mov.b32 t, 1; } mov.b32 %r1, t;", "3:45: `t` is not declared");
    check_body("{ .reg .b32 %r1; mov.b32 %r1, 1; } mov.b32 %r1, 2;", "");
    check_body(".reg .b32 %r1;", "3:11: `%r1` is declared twice in this scope");
    check_body("bra inner; { inner: mov.b32 %r1, 1; }", "3:5: there is no label `inner` here");
    check_body(
        "{ bra outer; } outer: outer: mov.b32 %r1, 1;",
        "3:23: `outer` is declared twice in this scope",
    );
    check_body("bra nowhere;", "3:5: there is no label `nowhere` here");
    check_body("mov.b32 %r9, 1;", "3:9: `%r9` is not declared");
}

#[test]
fn what_is_too_new_is_named() {
    check_body(
        "mbarrier.try_wait.shared.b64 %p1, [%r1], %rd1;",
        "
        3:1: `mbarrier.try_wait` is refused: mbarrier.try_wait needs sm_90; use mbarrier.test_wait in a loop",
    );
    check_body("mul.rn.bf16x2 %r1, %r2, %r3;", "3:1: `.bf16x2` is no modifier or type of `mul`");
    check_body("vote.all.pred %p1, %p2;", "3:1: `vote.all.pred` is gone since sm_70; use the .sync form");
    check_body(
        "mov.b64 %rd1, %clusterid.x;",
        "3:15: `%clusterid` needs clusters (sm_90), which this VM does not have",
    );
    check_body(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
        "
        3:1: `mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32` needs .version 8.4 or newer",
    );
}

#[test]
fn what_is_refused_is_named() {
    check_body(
        "tex.2d.v4.f32.f32 {%f1,%f2,%f3,%f4}, [t, {%f1,%f2}];",
        "3:1: `tex` is refused: textures are not supported",
    );
    check_body(
        "mma.sp.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r1,%r2}, {%r1,%r2}, {%r3,%r4}, {%r1,%r2}, %r5, 0;",
        "
        3:1: `mma.sp` is refused: sparse matrices are not supported; expand A to its zeros and use mma.sync",
    );
    check_body("mma.sp::ordered_metadata.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r1,%r2}, {%r1,%r2}, {%r3,%r4}, {%r1,%r2}, %r5, 0;", "
        3:1: `mma.sp::ordered_metadata` is refused: sparse matrices are not supported; expand A to its zeros and use mma.sync");
    check_body(
        "vadd2.u32.u32.u32 %r1, %r2, %r3, %r4;",
        "3:1: `vadd2` is refused: video instructions are not supported",
    );
    check(".texref t;", "2:1: textures and surfaces are not supported by this VM");
}

#[test]
fn words_stand_once() {
    check_body("add.rn.rn.f32 %f1, %f2, %f3;", "3:1: `.rn` stands twice on `add`");
    check_body("fence.acq_rel.cta.gpu;", "
        3:1: these words do not go together on `fence`; nearest: fence{.sc|.acq_rel}(.cta|.gpu|.sys|.cluster)");
    check_body("add.lo.s32 %r1, %r2, %r3;", "3:1: `.lo` is no modifier or type of `add`");
    check_body(
        "mul.s32 %r1, %r2, %r3;",
        "
        3:1: these words do not go together on `mul`; nearest: mul(.lo|.hi)(.u16|.u32|.u64|.s16|.s32|.s64)",
    );
}

#[test]
fn declarations_are_held_against_each_other() {
    check(".global .b32 x; .global .b32 x;", "2:30: `x` is declared twice in this scope");
    check(".global .b32 x[2] = {1, 2, 3};", "2:28: more initial values than elements");
    check(".global .f32 x = 1;", "2:18: this constant is no initial value for .f32");
    check(".global .align 3 .b32 x;", "2:9: an alignment is a power of two up to 65536");
    check(".const .b32 x = y;", "2:17: `y` is nothing that has an address yet");
    check(".entry k() { ret; } .entry k() { ret; }", "2:28: `k` is defined twice");
    check(
        ".func f(.param .b32 a); .func f(.param .b64 a) { ret; }",
        "2:31: `f` is declared before with another signature",
    );
    check(".entry k(.reg .b32 a) { ret; }", "2:10: `.reg` is no parameter of this function");
    check(".entry k() .maxntid 32 .reqntid 32 { ret; }", "2:24: .maxntid and .reqntid exclude each other");
    check(".entry k() .reqnctapercluster 2 { ret; }", "2:12: `.reqnctapercluster` needs clusters (sm_90)");
    check(
        ".func f(); .entry k() { call f; ret; }",
        "
        2:7: `f` is declared but defined nowhere
        2:25: `f` is declared but defined nowhere",
    );
    check(".version 8.0", "2:1: this directive belongs to the head of the file, once");
}

#[test]
fn the_head_comes_first_and_once() {
    for (source, reason) in [
        ("", Reason::Syntax),
        (".target sm_80\n.version 8.0\n", Reason::Syntax),
        (".version 8.0\n.target sm_banana\n", Reason::Target),
        (".version 8.0\n.target sm_80\n.address_size 48\n", Reason::Unsupported),
    ] {
        let error = compile("t", source).expect_err(source);
        assert_eq!(error.reason(), reason, "{source:?}");
    }
}

#[test]
fn several_results_are_registers() {
    check(
        ".func (.reg .b32 a, .reg .f32 b) f() { mov.b32 a, 1; mov.f32 b, 0f00000000; ret; }
.entry k() { .reg .b32 x; .reg .f32 y; call (x, y), f; ret; }",
        "",
    );
    check(
        ".func (.param .b32 a, .param .b32 b) f() { ret; }",
        "2:38: several return values are .reg; or pack them into one .param array",
    );
    check(
        ".func (.reg .b32 a, .reg .f32 b) f() { ret; } .entry k() { .reg .b32 x; call (x), f; ret; }",
        "2:73: the function returns 2 values, not 1",
    );
    check(
        ".func (.reg .b32 a) f() { ret; } .entry k() { .reg .b64 x; call (x), f; ret; }",
        "2:66: the parameter is .b32, the register .b64",
    );
}

#[test]
fn comments_and_debug_lines_are_nothing() {
    check(
        "// a comment with `;` and {
/* and
   another */ .file 1 \"kernel.cu\"
.entry k() { .loc 1 2 3
  .pragma \"nounroll\"; /* ; */ ret; // the end
}
.section .debug_str { .b8 1, 2 }",
        "",
    );
    check(".entry k() { ret; } /* never closed", "2:36: this comment is never closed");
}

#[test]
fn constants_are_folded_with_c_rules() {
    let source = format!(
        "{HEAD}.entry k() {{ .reg .b32 %r; .reg .f32 %f; .reg .b64 %rd;
mov.b32 %r, (1 + 2) * 3 - 4 / 2;
mov.b32 %r, 0x10 | 0b101 << 1;
mov.b32 %r, -7 % 3;
mov.b32 %r, 010;
mov.b32 %r, 1 < 2 ? 5 : 6;
mov.b64 %rd, ~0U >> 60;
mov.b32 %r, WARP_SZ;
ret; }}"
    );
    let module = compile("t", &source).unwrap_or_else(|e| panic!("{e}"));
    let body = module.functions[0].body.as_ref().expect("a body");
    let found: Vec<i64> = body
        .instrs
        .iter()
        .filter_map(|i| match i.operands.get(1)?.kind {
            OperandKind::Immediate(Immediate::Int { bits, .. }) => Some(bits as i64),
            _ => None,
        })
        .collect();
    assert_eq!(found, [7, 26, -1, 8, 5, 15, 32]);
}

#[test]
fn parameters_are_packed_by_their_alignment() {
    let layout =
        laid_out(".entry k(.param .b8 a, .param .b64 b, .param .align 16 .b8 c[20], .param .b16 d) { ret; }");
    let k = &layout.functions[0];
    let places: Vec<(u64, u64)> = k.places.iter().map(|p| (p.offset, p.bytes)).collect();
    assert_eq!(places, [(0, 1), (8, 8), (16, 20), (36, 2)]);
    assert_eq!(k.entry.expect("an entry").param_bytes, 38);
}

#[test]
fn dynamic_shared_memory_follows_what_the_kernel_reaches() {
    let layout = laid_out(
        ".shared .align 8 .b8 used[12]; .shared .b8 unused[100]; .extern .shared .align 16 .b8 dynamic[];
.func f() { .reg .b32 %r; mov.b32 %r, used; ret; }
.entry k() { .reg .b32 %r<3>; .shared .b64 own; mov.b32 %r1, own; mov.b32 %r2, dynamic; call f; ret; }
.entry empty() { ret; }",
    );
    let entry = |i: usize| layout.functions[i].entry.expect("an entry");
    assert_eq!(entry(1).static_shared, 24, "12 bytes of `used`, padding, 8 of `own`");
    assert_eq!(entry(1).dynamic_shared, 32, "aligned to 16");
    assert_eq!(entry(2).static_shared, 0);
    assert!(layout.places[2].dynamic);
}

#[test]
fn initial_values_become_bytes() {
    let layout = laid_out(
        ".const .b16 words[4] = {1, -2, 0x1234};
.const .v2 .f32 pairs[2] = {{1.0, 0f40000000}, {0d3FE0000000000000, 0.0}};
.const .b8 text[4] = {0x61, 0x62, 99};
.const .u64 big = 0xFFFFFFFFFFFFFFFF;",
    );
    let at = |i: usize| (layout.places[i].offset as usize, layout.places[i].bytes as usize);
    let bytes = image(&layout.constant, layout.constant.bytes as usize);
    let of = |i: usize| &bytes[at(i).0..at(i).0 + at(i).1];
    assert_eq!(of(0), [1, 0, 0xFE, 0xFF, 0x34, 0x12, 0, 0]);
    let floats: Vec<u8> = [1.0f32, 2.0, 0.5, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(of(1), floats);
    assert_eq!(of(2), *b"abc\0");
    assert_eq!(of(3), [0xFF; 8]);
}

#[test]
fn addresses_in_initial_values_are_filled_in_later() {
    let layout = laid_out(
        ".global .align 8 .b8 data[16];
.global .u64 pointers[3] = {data, generic(data)+8, data+4};
.global .b8 low = 0xFF(data);
.global .b8 second = 0xFF00(data);",
    );
    let found: Vec<(u64, u8, i64, bool, u32)> =
        layout.global.relocations.iter().map(|r| (r.at, r.bytes, r.addend, r.generic, r.shift)).collect();
    let start = layout.places[1].offset;
    let (low, second) = (layout.places[2].offset, layout.places[3].offset);
    assert_eq!(
        found,
        [
            (start, 8, 0, false, 0),
            (start + 8, 8, 8, true, 0),
            (start + 16, 8, 4, false, 0),
            (low, 1, 0, false, 0),
            (second, 1, 0, false, 8)
        ]
    );
}

#[test]
fn memory_has_limits() {
    for (fixture, part) in [
        (".shared .b8 a[49153]; .entry k() { .reg .b32 %r; mov.b32 %r, a; ret; }", "shared"),
        (".const .b8 a[65537];", "constant"),
        (".entry k() { .local .b8 a[524289]; ret; }", "local"),
    ] {
        let module = compile("t", &format!("{HEAD}{fixture}")).unwrap_or_else(|e| panic!("{e}"));
        let error = layout::layout(&module).expect_err(fixture);
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = compile("t", &format!("{HEAD}.entry k(.param .b8 a[4353]) {{ ret; }}"));
    assert!(error.expect_err("too many parameters").to_string().contains("4352"));
}
