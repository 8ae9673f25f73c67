//! Variables of a module: first values, addresses in them, constants, static and dynamic shared memory, `.param` frames.
mod kernel_harness;

use kernel_harness::{Arg::*, Gpu, assemble};
use ptx_vm::launch::{Checks, Launch, Options, launch};
use ptx_vm::strict::FaultKind;

const SOURCE: &str = r#".version 7.8
.target sm_80
.address_size 64
.const .align 4 .b32 table[3] = {10, 20, 30};
.global .align 1 .b8 pad[3] = {1, 2, 3};
.global .align 8 .u64 pointers[3] = {generic(pad), 0, generic(pad) + 2};
.global .align 4 .f32 scale = 0f40400000;
.global .align 4 .b32 zeros[100];
.shared .align 4 .b32 fixed[4];
.extern .shared .align 16 .b8 dynamic[];

.func (.param .align 8 .b8 out[16]) swap(.param .align 8 .b8 pair[16])
{
    .reg .b64 %rd<3>;
    .local .align 8 .b8 kept[8];
    ld.param.b64 %rd1, [pair];
    ld.param.b64 %rd2, [pair+8];
    st.local.b64 [kept], %rd1;
    ld.local.b64 %rd1, [kept];
    st.param.b64 [out], %rd2;
    st.param.b64 [out+8], %rd1;
    ret;
}

.visible .entry k(.param .u8 small, .param .u64 out, .param .u32 last)
{
    .reg .b32 %r<12>;
    .reg .b64 %rd<12>;
    .reg .f32 %f<3>;
    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd1, %rd1;
    ld.const.b32 %r1, [table+8];
    st.global.b32 [%rd1], %r1;
    ld.global.u64 %rd2, [pointers+16];
    ld.u8 %r2, [%rd2];
    st.global.b32 [%rd1+4], %r2;
    ld.global.f32 %f1, [scale];
    st.global.f32 [%rd1+8], %f1;
    ld.global.b32 %r3, [zeros+396];
    st.global.b32 [%rd1+12], %r3;
    mov.u32 %r4, fixed;
    mov.u32 %r5, dynamic;
    sub.u32 %r6, %r5, %r4;
    st.global.b32 [%rd1+16], %r6;
    ld.param.u32 %r7, [last];
    st.shared.b32 [%r5+60], %r7;
    ld.shared.b32 %r8, [dynamic+60];
    st.global.b32 [%rd1+20], %r8;
    mov.b64 %rd4, 111;
    mov.b64 %rd5, 222;
    {
        .param .align 8 .b8 pair[16];
        .param .align 8 .b8 back[16];
        st.param.b64 [pair], %rd4;
        st.param.b64 [pair+8], %rd5;
        call (back), swap, (pair);
        ld.param.b64 %rd6, [back];
        ld.param.b64 %rd7, [back+8];
    }
    cvt.u32.u64 %r9, %rd6;
    cvt.u32.u64 %r10, %rd7;
    st.global.b32 [%rd1+24], %r9;
    st.global.b32 [%rd1+28], %r10;
    ret;
}
"#;

#[test]
fn variables_have_their_places_and_values() {
    assemble("variables", SOURCE);
    let gpu = Gpu::new("variables", SOURCE);
    let kernel = gpu.loaded.module().kernel("k").unwrap();
    let places: Vec<(usize, usize)> = kernel.params.iter().map(|p| (p.offset, p.size)).collect();
    assert_eq!(places, [(0, 1), (8, 8), (16, 4)]);
    assert_eq!((kernel.param_bytes, kernel.static_shared), (20, 16));
    let (pad, bytes) = gpu.loaded.global("pad").unwrap();
    assert_eq!((gpu.download::<u8>(pad, 3), bytes), (vec![1, 2, 3], 3));
    let (pointers, _) = gpu.loaded.global("pointers").unwrap();
    assert_eq!(gpu.download::<u64>(pointers, 3), [pad, 0, pad + 2]);

    let at = gpu.room::<u32>(8);
    let mut params = vec![0; kernel.param_bytes];
    params[8..16].copy_from_slice(&at.to_le_bytes());
    params[16..].copy_from_slice(&77u32.to_le_bytes());
    let grid = |shared_bytes| Launch {
        grid: [1, 1, 1],
        block: [1, 1, 1],
        shared_bytes,
        params: params.clone(),
        ..Launch::default()
    };
    let options = Options { checks: Checks::All, ..Options::default() };
    launch(&gpu.memory, &gpu.loaded, "k", &grid(64), &options).unwrap();
    let want = [30, 3, 3f32.to_bits(), 0, 16, 77, 222, 111];
    assert_eq!(gpu.download::<u32>(at, 8), want);
    let fault = launch(&gpu.memory, &gpu.loaded, "k", &grid(60), &options).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds, "{fault}");
}

/// Each variable is a block of its own: one past its end is nobody's, whatever was declared next.
#[test]
fn a_variable_ends_where_it_ends() {
    let source = ".version 7.8\n.target sm_80\n.address_size 64\n.global .align 4 .b32 a[4];\n.global .align 4 .b32 b[4];\n\
                  .visible .entry k(.param .u32 at)\n{\n.reg .b32 %r<3>;\n.reg .b64 %rd<4>;\nld.param.u32 %r1, [at];\n\
                  mov.u64 %rd1, a;\nmul.wide.u32 %rd2, %r1, 4;\nadd.u64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], %r1;\nret;\n}\n";
    let gpu = Gpu::new("neighbours", source);
    let run = |at| gpu.try_run("k", [1, 1, 1], [1, 1, 1], &[U32(at)], &Options::default());
    run(3).unwrap();
    assert_eq!(run(4).unwrap_err().kind, FaultKind::OutOfBounds);
}
