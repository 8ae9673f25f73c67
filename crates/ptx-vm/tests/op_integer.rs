//! Integer and logic instructions one at a time, against wider integers.
mod kernel_harness;
mod op_harness;

use op_harness::{bytes, check, cut, execute, int, rows};

#[test]
fn integer_arithmetic() {
    for ty in ["u16", "s16", "u32", "s32", "u64", "s64"] {
        let bits = 8 * bytes(ty) as u32;
        let binary = |op: &str, f: &dyn Fn(i128, i128) -> i128| {
            check(&format!("{op}.{ty}"), &[ty; 3], |[a, b, ..]| cut(f(int(a, ty), int(b, ty)), ty));
        };
        binary("add", &|a, b| a + b);
        binary("sub", &|a, b| a - b);
        binary("min", &|a, b| a.min(b));
        binary("max", &|a, b| a.max(b));
        let product = |a: i128, b: i128| a.wrapping_mul(b);
        binary("mul.lo", &product);
        let wide = |a: i128, b: i128| {
            if ty == "u64" { ((a as u128).wrapping_mul(b as u128) >> 64) as i128 } else { (a * b) >> bits }
        };
        binary("mul.hi", &wide);
        check(&format!("mad.lo.{ty}"), &[ty; 4], |[a, b, c, _]| {
            cut(product(int(a, ty), int(b, ty)).wrapping_add(int(c, ty)), ty)
        });
        check(&format!("mad.hi.{ty}"), &[ty; 4], |[a, b, c, _]| {
            cut(wide(int(a, ty), int(b, ty)) + int(c, ty), ty)
        });
        check(&format!("sad.{ty}"), &[ty; 4], |[a, b, c, _]| {
            cut(int(c, ty) + (int(a, ty) - int(b, ty)).abs(), ty)
        });
        let quotient = |a: i128, b: i128| if b == 0 { -1 } else { a / b };
        let remainder = |a: i128, b: i128| if b == 0 { a } else { a % b };
        binary("div", &quotient);
        binary("rem", &remainder);
    }
    for (ty, wide) in [("u16", "u32"), ("s16", "s32"), ("u32", "u64"), ("s32", "s64")] {
        check(&format!("mul.wide.{ty}"), &[wide, ty, ty], |[a, b, ..]| cut(int(a, ty) * int(b, ty), wide));
        check(&format!("mad.wide.{ty}"), &[wide, ty, ty, wide], |[a, b, c, _]| {
            cut(int(a, ty) * int(b, ty) + int(c, wide), wide)
        });
    }
    let clamp = |v: i128| cut(v.clamp(i32::MIN.into(), i32::MAX.into()), "s32");
    check("add.sat.s32", &["s32"; 3], |[a, b, ..]| clamp(int(a, "s32") + int(b, "s32")));
    check("sub.sat.s32", &["s32"; 3], |[a, b, ..]| clamp(int(a, "s32") - int(b, "s32")));
    for ty in ["s16", "s32", "s64"] {
        check(&format!("abs.{ty}"), &[ty; 2], |[a, ..]| cut(int(a, ty).abs(), ty));
        check(&format!("neg.{ty}"), &[ty; 2], |[a, ..]| cut(-int(a, ty), ty));
    }
    for (ty, low) in [("u32", 0xff_ffffi128), ("s32", 0)] {
        let part = |x: u64| {
            if ty == "u32" { i128::from(x) & low } else { i128::from(((x as u32) << 8) as i32 >> 8) }
        };
        check(&format!("mul24.lo.{ty}"), &[ty; 3], |[a, b, ..]| cut(part(a) * part(b), ty));
        check(&format!("mul24.hi.{ty}"), &[ty; 3], |[a, b, ..]| cut((part(a) * part(b)) >> 16, ty));
    }
}

#[test]
fn carries() {
    let add = "{ .reg .b32 %x<3>; add.cc.u32 %x1, %r2, %r3; addc.u32 %r1, %r4, %r5; }";
    let add = add.replace("{ ", "").replace(" }", "");
    let run = |op: &str, f: &dyn Fn([u64; 4]) -> u64| {
        let rows = rows(5);
        let got = execute(&format!("{op} // $"), &["u32"; 5], &rows);
        for (row, got) in rows.iter().zip(got) {
            let r = row.map(|x| x & 0xffff_ffff);
            assert_eq!(got, f(r) & 0xffff_ffff, "{op} of {r:x?}");
        }
    };
    run(&add, &|[a, b, c, d]| c + d + ((a + b) >> 32));
    let sub = ".reg .b32 %x<3>; sub.cc.u32 %x1, %r2, %r3; subc.u32 %r1, %r4, %r5;";
    run(sub, &|[a, b, c, d]| c.wrapping_sub(d).wrapping_sub(u64::from(a < b)));
    let mad = ".reg .b32 %x<3>; mad.lo.cc.u32 %x1, %r2, %r3, %r4; madc.hi.u32 %r1, %r2, %r3, %r5;";
    run(mad, &|[a, b, c, d]| (((a * b) >> 32) + d).wrapping_add((((a * b) & 0xffff_ffff) + c) >> 32));
}

#[test]
fn bits() {
    for ty in ["b16", "b32", "b64"] {
        check(&format!("and.{ty}"), &[ty; 3], |[a, b, ..]| a & b);
        check(&format!("xor.{ty}"), &[ty; 3], |[a, b, ..]| a ^ b);
        check(&format!("not.{ty}"), &[ty; 2], |[a, ..]| cut(!a as i128, ty));
        let bits = 8 * bytes(ty) as u64;
        check(
            &format!("shl.{ty}"),
            &[ty, ty, "u32"],
            |[a, n, ..]| {
                if n >= bits { 0 } else { cut((a as i128) << n, ty) }
            },
        );
    }
    for ty in ["u16", "s16", "u32", "s32", "u64", "s64"] {
        check(&format!("shr.{ty}"), &[ty, ty, "u32"], |[a, n, ..]| cut(int(a, ty) >> n.min(100), ty));
    }
    for (ty, t) in [("b32", "u32"), ("b64", "u64")] {
        let bits = 8 * bytes(ty);
        let set = move |a: u64, i: usize| a >> i & 1 == 1;
        check(&format!("popc.{ty}"), &["u32", ty], |[a, ..]| (0..bits).filter(|&i| set(a, i)).count() as u64);
        check(&format!("clz.{ty}"), &["u32", ty], |[a, ..]| {
            (0..bits).rev().take_while(|&i| !set(a, i)).count() as u64
        });
        check(&format!("brev.{ty}"), &[ty, ty], |[a, ..]| {
            (0..bits).fold(0, |r, i| r | (a >> i & 1) << (bits - 1 - i))
        });
        check(&format!("bfind.{t}"), &["u32", t], |[a, ..]| {
            (0..bits).rev().find(|&i| set(a, i)).map_or(0xffff_ffff, |i| i as u64)
        });
        check(&format!("bfe.{t}"), &[t, t, "u32", "u32"], |[a, pos, len, _]| {
            let (pos, len) = ((pos & 255) as usize, (len & 255) as usize);
            (0..len.min(64)).filter(|&i| pos + i < bits && set(a, pos + i)).fold(0, |r, i| r | 1 << i)
        });
        let s = if bits == 32 { "s32" } else { "s64" };
        check(&format!("bfe.{s}"), &[s, s, "u32", "u32"], |[a, pos, len, _]| {
            let (pos, len) = ((pos & 255) as usize, (len & 255) as usize);
            let sign = len > 0 && set(a, (pos + len - 1).min(bits - 1));
            let bit = |i: usize| if i < len && pos + i < bits { set(a, pos + i) } else { sign };
            (0..bits).filter(|&i| bit(i)).fold(0, |r, i| r | 1 << i)
        });
        check(&format!("bfi.{ty}"), &[ty, ty, ty, "u32", "u32"], |[a, b, pos, len]| {
            let (pos, len) = ((pos & 255) as usize, (len & 255) as usize);
            let bit = |i: usize| if i >= pos && i < pos + len { set(a, i - pos) } else { set(b, i) };
            (0..bits).filter(|&i| bit(i)).fold(0, |r, i| r | 1 << i)
        });
    }
    for table in [0x00u32, 0x1b, 0x80, 0x96, 0xca, 0xe8, 0xea, 0xf8, 0xfe, 0xff, 0x6a, 0x78] {
        check(&format!("lop3.b32 $, {table};"), &["b32"; 4], |[a, b, c, _]| {
            let bit = |i: u32| table >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1;
            (0..32).fold(0, |r, i| r | u64::from(bit(i)) << i)
        });
    }
    check("prmt.b32", &["b32"; 4], |[a, b, s, _]| {
        let all = [a.to_le_bytes(), b.to_le_bytes()].map(|x| x[..4].to_vec()).concat();
        (0..4).fold(0, |r, i| {
            let nibble = s >> (4 * i) & 15;
            let byte = all[(nibble & 7) as usize];
            let v = if nibble < 8 {
                byte
            } else if byte >= 128 {
                255
            } else {
                0
            };
            r | u64::from(v) << (8 * i)
        })
    });
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        let n = move |c: u64| if clamp { c.min(32) } else { c & 31 };
        check(&format!("shf.l.{mode}.b32"), &["b32", "b32", "b32", "u32"], |[a, b, c, _]| {
            ((b << 32 | a) << n(c)) >> 32
        });
        check(&format!("shf.r.{mode}.b32"), &["b32", "b32", "b32", "u32"], |[a, b, c, _]| {
            (b << 32 | a) >> n(c) & 0xffff_ffff
        });
    }
    let signed = |x: u64, i: u32| i128::from((x >> (8 * i)) as i8);
    let unsigned = |x: u64, i: u32| i128::from((x >> (8 * i)) as u8);
    check("dp4a.s32.s32", &["s32"; 4], |[a, b, c, _]| {
        cut((0..4).map(|i| signed(a, i) * signed(b, i)).sum::<i128>() + i128::from(c), "s32")
    });
    check("dp4a.u32.s32", &["s32"; 4], |[a, b, c, _]| {
        cut((0..4).map(|i| unsigned(a, i) * signed(b, i)).sum::<i128>() + i128::from(c), "s32")
    });
    check("dp2a.hi.s32.u32", &["s32"; 4], |[a, b, c, _]| {
        let half = |i: u32| i128::from((a >> (16 * i)) as i16);
        cut(half(0) * unsigned(b, 2) + half(1) * unsigned(b, 3) + i128::from(c), "s32")
    });
}
