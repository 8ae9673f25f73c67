//! Tests of the device memory.

use super::*;

#[test]
fn blocks_lie_apart_and_freed_ones_are_gone() {
    let memory = Memory::new(1 << 20).unwrap();
    let a = memory.alloc(100, 1).unwrap();
    let b = memory.alloc(100, 4096).unwrap();
    assert_eq!((a % 256, b % 4096), (0, 0));
    assert!(b >= a + 100 + GUARD as u64);
    assert_eq!(memory.range_of(a + 99), Some((a, 100)));
    assert_eq!(memory.range_of(a + 100), None);
    assert_eq!(memory.used(), 200);
    memory.free(a).unwrap();
    assert_eq!(memory.used(), 100);
    assert_eq!(memory.free(a), Err(MemoryError::NotABlock { addr: a }));
    let mut byte = [0];
    let error = memory.read(a, &mut byte).unwrap_err().to_string();
    assert!(error.contains("inside a freed block of 100 bytes"), "{error}");
}

#[test]
fn capacity_is_a_limit_and_space_is_used_again() {
    let memory = Memory::new(1 << 20).unwrap();
    assert!(matches!(memory.alloc((1 << 20) + 1, 1), Err(MemoryError::OutOfMemory { .. })));
    for _ in 0..500 {
        let a = memory.alloc(1 << 20, 256).unwrap();
        memory.write(a + (1 << 20) - 4, &[1, 2, 3, 4]).unwrap();
        memory.free(a).unwrap();
    }
    let a = memory.alloc(1 << 20, 256).unwrap();
    let mut tail = [9; 4];
    memory.read(a + (1 << 20) - 4, &mut tail).unwrap();
    assert_eq!(tail, [0; 4]);
}

#[test]
fn the_shadow_knows_each_byte() {
    let memory = Memory::new(1 << 20).unwrap();
    let a = memory.alloc(1000, 1).unwrap();
    memory.write(a + 3, &[7; 130]).unwrap();
    let first = |from: u64, n| memory.shadow.first_unwritten(a + from, n).map(|x| x - a);
    assert_eq!(first(3, 130), None);
    assert_eq!(first(2, 2), Some(2));
    assert_eq!(first(100, 40), Some(133));
    memory.copy(a + 200, a, 64).unwrap();
    assert_eq!((first(200, 3), first(203, 61)), (Some(200), None));
    memory.free(a).unwrap();
    assert_eq!(first(3, 130), Some(3));
}

#[test]
fn overlapping_copies_and_fills() {
    let memory = Memory::new(1 << 20).unwrap();
    let a = memory.alloc(64, 1).unwrap();
    memory.fill(a, &[1, 2, 3], 20).unwrap();
    memory.copy(a + 1, a, 59).unwrap();
    let mut out = [0; 6];
    memory.read(a, &mut out).unwrap();
    assert_eq!(out, [1, 1, 2, 3, 1, 2]);
    assert!(memory.fill(a, &[1, 2], 33).is_err());
}

#[test]
fn poison_depends_on_the_seed_only() {
    let content = |seed| {
        let memory = Memory::new(1 << 20).unwrap();
        memory.set_poison(seed);
        let a = memory.alloc(64, 1).unwrap();
        let mut out = [0; 64];
        memory.read(a, &mut out).unwrap();
        out
    };
    assert_eq!(content(None), [0; 64]);
    assert_ne!(content(Some(1)), [0; 64]);
}
