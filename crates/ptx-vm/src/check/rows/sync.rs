//! Barriers, fences and what the threads of a warp say to each other (9.7.13).
use crate::check::form::{Row, row};
use crate::syntax::ast::Modifiers;

/// `.relaxed`, `.release` and `.acquire` of a barrier object stand together with a scope.
fn semantics_with_scope(mods: &Modifiers) -> Result<(), &'static str> {
    match (mods.semantics, mods.scope) {
        (Some(_), None) | (None, Some(_)) => Err("an ordering and a scope stand together"),
        _ => Ok(()),
    }
}

pub(super) const ROWS: &[Row] = &[
    row("barrier.sync ?aligned", "a:u32 a:u32?"),
    row("barrier.arrive ?aligned", "a:u32 a:u32"),
    row("barrier.red .popc ?aligned .u32", "d a:u32 p"),
    row("barrier.red .popc ?aligned .u32", "d a:u32 a:u32 p"),
    row("barrier.red .and|or ?aligned .pred", "d a:u32 p"),
    row("barrier.red .and|or ?aligned .pred", "d a:u32 a:u32 p"),
    row("bar.warp.sync", "a:u32").since(6, 0, 30),
    row("membar .cta|gl|sys", ""),
    row("membar .proxy .alias", "").since(7, 5, 70),
    row("fence ?sc|acq_rel .$scope", "").since(6, 0, 70),
    row("fence .proxy .alias", "").since(7, 5, 70),
    row("shfl .sync .up|down|bfly|idx .b32", "dq a a:u32 a:u32 a:u32").since(6, 0, 30),
    row("shfl .up|down|bfly|idx .b32", "dq a a:u32 a:u32").since(3, 0, 30).until(70),
    row("vote .sync .all|any|uni .pred", "d p a:u32").since(6, 0, 30),
    row("vote .sync .ballot .b32", "d p a:u32").since(6, 0, 30),
    row("vote .all|any|uni .pred", "d p").until(70),
    row("vote .ballot .b32", "d p").until(70),
    row("match .any .sync .b32", "d:u32 a a:u32").since(6, 0, 70),
    row("match .any .sync .b64", "d:u32 a a:u32").since(6, 0, 70),
    row("match .all .sync .b32", "dq:u32 a a:u32").since(6, 0, 70),
    row("match .all .sync .b64", "dq:u32 a a:u32").since(6, 0, 70),
    row("activemask .b32", "d").since(6, 2, 30),
    row("redux .sync .add|min|max .u32|s32", "d a a:u32").since(7, 0, 80),
    row("redux .sync .and|or|xor .b32", "d:u32 a:u32 a:u32").since(7, 0, 80),
    row("mbarrier.init ?$shared .b64", "m a:u32").since(7, 0, 80),
    row("mbarrier.inval ?$shared .b64", "m").since(7, 0, 80),
    row("mbarrier.arrive ?release@8.0/80 ?cta@8.0/80 ?$shared .b64", "d_:u64 m")
        .since(7, 0, 80)
        .rule(semantics_with_scope),
    row("mbarrier.arrive ?release@8.0/80 ?cta@8.0/80 .noComplete ?$shared .b64", "d_:u64 m a:u32")
        .since(7, 0, 80)
        .rule(semantics_with_scope),
    row("mbarrier.arrive_drop ?release@8.0/80 ?cta@8.0/80 ?$shared .b64", "d_:u64 m")
        .since(7, 0, 80)
        .rule(semantics_with_scope),
    row("mbarrier.arrive_drop ?release@8.0/80 ?cta@8.0/80 .noComplete ?$shared .b64", "d_:u64 m a:u32")
        .since(7, 0, 80)
        .rule(semantics_with_scope),
    row("mbarrier.test_wait ?acquire@8.0/80 ?cta@8.0/80 ?$shared .b64", "d:pred m a:u64")
        .since(7, 0, 80)
        .rule(semantics_with_scope),
    row("mbarrier.test_wait .parity ?acquire@8.0/80 ?cta@8.0/80 ?$shared .b64", "d:pred m a:u32")
        .since(7, 1, 80)
        .rule(semantics_with_scope),
    row("mbarrier.pending_count .b64", "d:u32 a:u64").since(7, 0, 80),
];
