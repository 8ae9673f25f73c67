//! Broken PTX: whatever happens to a valid module's text, the front end answers with a module or with diagnostics. It
//! never panics, and what it builds is bounded by the text.
use proptest::prelude::*;
use ptx_vm::{check, flow, layout};

const VALID: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dyn[];
.global .align 8 .u64 table[2] = {table, generic(table)+8};
.const .v2 .f32 pairs[2] = {{1.0, 0f40000000}, {3.0, 4.0}};
.func (.param .b32 r) twice(.param .b32 a) {
  .reg .b32 %t;
  ld.param.b32 %t, [a];
  shl.b32 %t, %t, 1;
  st.param.b32 [r], %t;
  ret;
}
.visible .entry k(.param .u64 .ptr .global .align 16 p0, .param .u32 n) .maxntid 128, 1, 1 {
  .reg .pred %p<4>; .reg .b32 %r<20>; .reg .f32 %f<9>; .reg .b64 %rd<9>; .reg .v2 .b32 %v;
  .shared .align 16 .b8 tile[256];
  ld.param.u64 %rd1, [p0];
  cvta.to.global.u64 %rd2, %rd1;
  mov.u32 %r1, %tid.x;
  setp.lt.and.s32 %p1|%p2, %r1, 5, !%p3;
  @%p1 bra $L;
  add.rn.ftz.f32 %f1, %f2, 0f3F800000;
  cp.async.cg.shared.global [tile+16], [%rd2], 16;
  mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};
  { .param .b32 x; .param .b32 y; st.param.b32 [x], %r1; call.uni (y), twice, (x); ld.param.b32 %r2, [y]; }
  targets: .branchtargets $L, $M;
  brx.idx %r1, targets;
$M: mov.b64 {%r1, %r2}, %rd1;
$L: st.global.v2.b32 [%rd2+8], %v; // the end
  ret;
}
"#;

/// Runs every stage; the verdict does not matter.
fn run(source: &str) {
    match check::compile("mutated.ptx", source) {
        Err(error) => assert!(!error.diagnostics.is_empty() && !error.to_string().is_empty()),
        Ok(module) => {
            let _ = layout::layout(&module);
            for function in &module.functions {
                let flow = flow::flow(function);
                assert!(
                    (1..=255).contains(&flow::registers(&module, function, &flow)) || function.body.is_none()
                );
            }
        }
    }
}

#[test]
fn the_unbroken_text_is_valid() {
    let module = check::compile("valid.ptx", VALID).unwrap();
    layout::layout(&module).unwrap();
}

#[test]
fn cut_anywhere() {
    (0..VALID.len()).for_each(|end| run(&VALID[..end]));
}

#[test]
fn enormous_numbers_and_depths_are_refused() {
    let module =
        |body: &str| format!(".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{ {body} ret; }}");
    for body in [
        ".reg .b32 %r<18446744073709551615>;".to_owned(),
        ".shared .b8 x[4294967295][4294967295];".to_owned(),
        ".global .b32 x[][4611686018427387904] = {{},{1}};".to_owned(),
        "{".repeat(100_000),
        format!(".global .b32 x = {};", "(".repeat(100_000)),
        format!(".global .b32 x{};", "[1]".repeat(1000)),
        format!("mov.b32 %r1, {};", "-".repeat(100_000)),
    ] {
        assert!(check::compile("limits.ptx", &module(&body)).is_err(), "{}", &body[..body.len().min(60)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Some pieces of the text removed, doubled, or replaced by others of its pieces.
    #[test]
    fn pieces_moved(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4usize), 1..6)) {
        let mut words: Vec<&str> = VALID.split_inclusive([' ', ',', ';', '.', '\n']).collect();
        for (at, from, kind) in edits {
            if words.is_empty() {
                break;
            }
            let (at, piece) = (at.index(words.len()), words[from.index(words.len())]);
            match kind {
                0 => drop(words.remove(at)),
                1 => words.insert(at, piece),
                2 => words[at] = piece,
                _ => words.truncate(at.max(1)),
            }
        }
        run(&words.concat());
    }

    /// Some bytes replaced by others, printable or not.
    #[test]
    fn bytes_changed(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = VALID.as_bytes().to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        run(&String::from_utf8_lossy(&bytes));
    }
}
