//! GGUF's block formats: one row a type.

use half::{bf16, f16};

/// A block format: elements and bytes of a block, and how it is read.
pub(crate) struct Kind {
    pub block: usize,
    pub bytes: usize,
    pub read: fn(&[u8], &mut Vec<f32>),
}

/// For error messages.
pub(crate) const NAMES: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0";

/// The format of a GGUF type number.
pub(crate) fn kind(number: u32) -> Option<Kind> {
    let of = |block, bytes, read| Some(Kind { block, bytes, read });
    match number {
        0 => of(1, 4, |b, out| out.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        1 => of(1, 2, |b, out| out.push(half_at(b, 0))),
        2 => of(32, 18, |b, out| nibbles(b, 2, None, half_at(b, 0), -8.0 * half_at(b, 0), out)),
        3 => of(32, 20, |b, out| nibbles(b, 4, None, half_at(b, 0), half_at(b, 2), out)),
        6 => of(32, 22, |b, out| nibbles(b, 6, Some(2), half_at(b, 0), -16.0 * half_at(b, 0), out)),
        7 => of(32, 24, |b, out| nibbles(b, 8, Some(4), half_at(b, 0), half_at(b, 2), out)),
        8 => of(32, 34, |b, out| {
            let d = half_at(b, 0);
            out.extend(b[2..34].iter().map(|q| d * f32::from(*q as i8)));
        }),
        30 => of(1, 2, |b, out| out.push(bf16::from_le_bytes([b[0], b[1]]).to_f32())),
        _ => None,
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// 32 elements: low nibbles first, then high; `high` is where the fifth bits lie. x = q * scale + min.
fn nibbles(b: &[u8], at: usize, high: Option<usize>, scale: f32, min: f32, out: &mut Vec<f32>) {
    let fifth = high.map_or(0, |h| u32::from_le_bytes([b[h], b[h + 1], b[h + 2], b[h + 3]]));
    for i in 0..32 {
        let byte = b[at + i % 16];
        let low = if i < 16 { byte & 15 } else { byte >> 4 };
        let q = low | ((fifth >> i & 1) as u8) << 4;
        out.push(f32::from(q).mul_add(scale, min));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(number: u32, block: &[u8]) -> Vec<f32> {
        let k = kind(number).unwrap();
        assert_eq!(block.len(), k.bytes);
        let mut out = Vec::new();
        (k.read)(block, &mut out);
        assert_eq!(out.len(), k.block);
        out
    }

    #[test]
    fn blocks_are_read_as_documented() {
        let h = |v: f32| f16::from_f32(v).to_le_bytes().to_vec();
        // Byte i holds element i in its low nibble and element i + 16 in its high one.
        let qs: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let q = |i: usize| if i < 16 { i as f32 } else { (31 - i) as f32 };
        let q4_0 = read(2, &[h(0.5), qs.clone()].concat());
        let q4_1 = read(3, &[h(0.5), h(-1.0), qs.clone()].concat());
        let bits = 0x8000_0001u32.to_le_bytes().to_vec();
        let q5_0 = read(6, &[h(0.5), bits.clone(), qs.clone()].concat());
        let q5_1 = read(7, &[h(0.5), h(-1.0), bits, qs].concat());
        let fifth = |i: usize| if i == 0 || i == 31 { 16.0 } else { 0.0 };
        for i in 0..32 {
            assert_eq!(q4_0[i], 0.5 * (q(i) - 8.0));
            assert_eq!(q4_1[i], 0.5 * q(i) - 1.0);
            assert_eq!(q5_0[i], 0.5 * (q(i) + fifth(i) - 16.0));
            assert_eq!(q5_1[i], 0.5 * (q(i) + fifth(i)) - 1.0);
        }
        let q8: Vec<u8> = (0..32).map(|i| (i as i8 - 16) as u8).collect();
        let q8_0 = read(8, &[h(2.0), q8].concat());
        assert!(q8_0.iter().enumerate().all(|(i, v)| *v == 2.0 * (i as f32 - 16.0)));
        assert_eq!(read(0, &1.25f32.to_le_bytes()), [1.25]);
        assert_eq!(read(1, &h(1.25)), [1.25]);
        assert_eq!(read(30, &bf16::from_f32(1.25).to_le_bytes()), [1.25]);
        assert!(kind(99).is_none());
    }
}
