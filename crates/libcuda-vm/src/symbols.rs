//! Every name of the driver API, and how `cuGetProcAddress` picks among its forms.
use crate::{handle::lock, result::Code};
use std::{collections::BTreeSet, sync::Mutex};

/// A name.
pub struct Row {
    /// As clients ask for it.
    pub name: &'static str,
    /// Its forms, oldest first, the per-thread ones last.
    pub forms: &'static [Form],
}

/// A function behind a name.
pub struct Form {
    /// The CUDA version from which the name means this function.
    pub version: i32,
    /// Whether its default stream is the calling thread's.
    pub per_thread: bool,
    /// The function; its true type is that of the driver API.
    pub function: unsafe extern "C" fn(),
}

/// What a search found.
pub enum Found {
    /// A function.
    Function(unsafe extern "C" fn()),
    /// No such name.
    NoSuchName,
    /// The name came after that version.
    TooOld,
}

/// The function that `name` means to a client of CUDA `version`.
pub fn find(name: &str, version: i32, per_thread: bool) -> Found {
    let Ok(at) = ROWS.binary_search_by(|row| row.name.cmp(name)) else { return Found::NoSuchName };
    let newest = |want: bool| {
        let fits = |f: &&Form| f.per_thread == want && f.version <= version;
        ROWS[at].forms.iter().filter(fits).max_by_key(|f| f.version)
    };
    let form = if per_thread { newest(true).or_else(|| newest(false)) } else { newest(false) };
    form.map_or(Found::TooOld, |f| Found::Function(f.function))
}

/// The body of every function that is not there: says its name, once each.
fn refuse(name: &'static str) -> i32 {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if lock(&SAID).insert(name) {
        eprintln!("ferrotune-vm: {name} is not supported by the PTX VM's driver (CUDA_ERROR_NOT_SUPPORTED)");
    }
    Code::NOT_SUPPORTED.0
}

include!(concat!(env!("OUT_DIR"), "/symbols.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str, version: i32, per_thread: bool) -> Option<usize> {
        match find(name, version, per_thread) {
            Found::Function(f) => Some(f as usize),
            _ => None,
        }
    }

    fn linked(f: unsafe extern "C" fn()) -> Option<usize> {
        Some(f as usize)
    }

    #[test]
    fn versions_pick_the_form() {
        assert_eq!(address("cuMemAlloc", 3020, false), linked(self::linked::cuMemAlloc_v2));
        assert_eq!(address("cuMemAlloc", 2000, false), linked(self::linked::cuMemAlloc));
        assert_eq!(address("cuCtxCreate", 13_000, false), linked(self::linked::cuCtxCreate_v4));
        assert_eq!(
            address("cuGraphInstantiate", 12_000, false),
            linked(self::linked::cuGraphInstantiateWithFlags)
        );
        assert_eq!(address("cuMemcpyHtoD", 12_000, true), linked(self::linked::cuMemcpyHtoD_v2_ptds));
        assert_eq!(address("cuMemcpyHtoD", 12_000, false), linked(self::linked::cuMemcpyHtoD_v2));
        assert_eq!(address("cuInit", 12_000, true), linked(self::linked::cuInit), "no per-thread form");
    }

    #[test]
    fn unknown_and_newer_names_are_told_apart() {
        assert!(matches!(find("cuNothing", 13_000, false), Found::NoSuchName));
        assert!(
            matches!(find("cuMemAlloc_v2", 13_000, false), Found::NoSuchName),
            "a base name is asked for"
        );
        assert!(matches!(find("cuGraphCreate", 9000, false), Found::TooOld));
    }

    #[test]
    fn the_table_is_sorted_and_complete() {
        assert!(ROWS.windows(2).all(|w| w[0].name < w[1].name));
        assert!(ROWS.len() > 500, "{} names", ROWS.len());
        assert!(ROWS.iter().all(|r| !r.forms.is_empty()));
    }
}
