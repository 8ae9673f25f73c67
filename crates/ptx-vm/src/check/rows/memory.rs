//! Loads, stores, moves and cache control (9.7.9).
use crate::check::form::{Row, row};
use crate::syntax::ast::{Modifiers, Space};

/// Eviction priorities and prefetch sizes belong to global memory, and not beside a cache operator.
fn cache_control(mods: &Modifiers) -> Result<(), &'static str> {
    let global = matches!(mods.space, None | Some(Space::Global));
    let hints = mods.evict_l1.is_some() || mods.prefetch_bytes.is_some() || mods.cache_hint;
    if hints && !global {
        return Err("eviction priorities, prefetch sizes and cache policies are for global memory");
    }
    if mods.cache.is_some() && mods.evict_l1.is_some() {
        return Err("a cache operator and an eviction priority exclude each other");
    }
    Ok(())
}

pub(super) const ROWS: &[Row] = &[
    row("mov .$plain|pred", "d x"),
    row("mov .b128", "d r").since(8, 3, 70),
    row("mov .b16|b32|b64|b128@8.3/70", "d pack"),
    row("mov .b16|b32|b64|b128@8.3/70", "unpack r"),
    row("mov .v2|v4 .$plain", "dv xv"),
    row("ld ?weak@6.0/10 ?$loadspace ?ca|cg|cs|lu|cv ?$evict ?$fetch ?v2|v4 .$memory", "dv~ m").rule(cache_control),
    row("ld ?weak@6.0/10 ?global ?ca|cg|cs|lu|cv ?$evict .L2::cache_hint ?$fetch ?v2|v4 .$memory", "dv~ m a:u64")
        .since(7, 4, 80)
        .rule(cache_control),
    row("ld .volatile ?global|local|$shared ?$fetch ?v2|v4 .$memory", "dv~ m").rule(cache_control),
    row("ld .relaxed|acquire .$scope ?global|$shared ?$evict ?$fetch ?v2|v4 .$memory", "dv~ m")
        .since(6, 0, 70)
        .rule(cache_control),
    row("ld .relaxed|acquire .$scope ?global ?$evict .L2::cache_hint ?$fetch ?v2|v4 .$memory", "dv~ m a:u64")
        .since(7, 4, 80)
        .rule(cache_control),
    row("ld .mmio .relaxed .sys ?global .$narrow", "d~ m").since(8, 2, 70),
    row("ld .global ?ca|cg|cs ?$evict .nc ?$fetch ?v2|v4 .$memory", "dv~ m").since(3, 1, 32).rule(cache_control),
    row("ld .global ?ca|cg|cs ?$evict .nc .L2::cache_hint ?$fetch ?v2|v4 .$memory", "dv~ m a:u64")
        .since(7, 4, 80)
        .rule(cache_control),
    row("ldu ?global ?v2|v4 .$memory", "dv~ m").since(2, 0, 20),
    row("st ?weak@6.0/10 ?$storespace ?wb|cg|cs|wt ?$evict ?v2|v4 .$memory", "m av~").rule(cache_control),
    row("st ?weak@6.0/10 ?global ?wb|cg|cs|wt ?$evict .L2::cache_hint ?v2|v4 .$memory", "m av~ a:u64")
        .since(7, 4, 80)
        .rule(cache_control),
    row("st .volatile ?global|local|$shared ?v2|v4 .$memory", "m av~").rule(cache_control),
    row("st .relaxed|release .$scope ?global|$shared ?$evict ?v2|v4 .$memory", "m av~").since(6, 0, 70).rule(cache_control),
    row("st .relaxed|release .$scope ?global ?$evict .L2::cache_hint ?v2|v4 .$memory", "m av~ a:u64")
        .since(7, 4, 80)
        .rule(cache_control),
    row("st .mmio .relaxed .sys ?global .$narrow", "m a~").since(8, 2, 70),
    row("prefetch ?global|local .L1|L2", "m").since(2, 0, 20),
    row("prefetch ?global .L2::evict_last|L2::evict_normal", "m").since(7, 4, 80),
    row("prefetchu .L1", "m").since(2, 0, 20),
    row("applypriority ?global .L2::evict_normal", "m i").since(7, 4, 80),
    row("discard ?global .L2", "m i").since(7, 4, 80),
    row(
        "createpolicy.fractional .L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged ?L2::evict_first|L2::evict_unchanged .b64",
        "d:u64 a:f32?",
    )
    .since(7, 4, 80),
    row(
        "createpolicy.range ?global .L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged ?L2::evict_first|L2::evict_unchanged .b64",
        "d:u64 m a:u32 a:u32",
    )
    .since(7, 4, 80),
    row("createpolicy.cvt .L2 .b64", "d:u64 a:u64").since(7, 4, 80),
    row("cp.async .ca|cg .$shared .global ?$fetch", "m m i").since(7, 0, 80),
    row("cp.async .ca|cg .$shared .global ?$fetch", "m m i a:u32").since(7, 0, 80),
    row("cp.async .ca|cg .$shared .global ?$fetch", "m m i p").since(7, 5, 80),
    row("cp.async .ca|cg .$shared .global .L2::cache_hint ?$fetch", "m m i a:u64").since(7, 4, 80),
    row("cp.async .ca|cg .$shared .global .L2::cache_hint ?$fetch", "m m i a:u32 a:u64").since(7, 4, 80),
    row("cp.async .ca|cg .$shared .global .L2::cache_hint ?$fetch", "m m i p a:u64").since(7, 5, 80),
    row("cp.async.commit_group", "").since(7, 0, 80),
    row("cp.async.wait_group", "i").since(7, 0, 80),
    row("cp.async.wait_all", "").since(7, 0, 80),
    row("cp.async.mbarrier.arrive ?noinc ?$shared .b64", "m").since(7, 0, 80),
    row("stacksave .u32|u64", "d").since(7, 3, 52),
    row("stackrestore .u32|u64", "r").since(7, 3, 52),
    row("alloca .u32|u64", "d a i?").since(7, 3, 52),
];
