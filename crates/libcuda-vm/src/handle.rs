//! Handles: numbers that name objects, never addresses of them.
//!
//! A client's handle is looked up in a table and never dereferenced, so garbage, a stale handle or a handle of
//! another kind gives an error. Numbers are never used twice: an old handle cannot name a new object.
use crate::result::{Code, Failure};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Names objects of one kind.
pub struct Table<T> {
    kind: usize,
    what: &'static str,
    objects: RwLock<BTreeMap<usize, Arc<T>>>,
}

static NEXT: AtomicUsize = AtomicUsize::new(1);

impl<T> Table<T> {
    /// An empty table; `kind` becomes part of each handle, so that one seen in a debugger tells what it is.
    pub const fn new(kind: usize, what: &'static str) -> Table<T> {
        Table { kind, what, objects: RwLock::new(BTreeMap::new()) }
    }

    /// A handle for an object that is not there yet: objects that hold their own handle take it first.
    pub fn reserve(&self) -> usize {
        (self.kind << 40) | (NEXT.fetch_add(1, Ordering::Relaxed) << 4)
    }

    /// Names an object.
    pub fn insert(&self, handle: usize, object: Arc<T>) {
        self.objects.write().unwrap_or_else(PoisonError::into_inner).insert(handle, object);
    }

    /// The object, if the handle names one.
    pub fn find(&self, handle: usize) -> Option<Arc<T>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    /// The object, or what the driver says of a wrong handle: null is a wrong value, anything else a wrong handle.
    pub fn get(&self, handle: usize) -> Result<Arc<T>, Failure> {
        self.find(handle).ok_or_else(|| self.wrong(handle))
    }

    /// Takes the name away; the object lives on while something uses it.
    pub fn remove(&self, handle: usize) -> Result<Arc<T>, Failure> {
        let removed = self.objects.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        removed.ok_or_else(|| self.wrong(handle))
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Takes away the names of all objects for which `dead` holds.
    pub fn remove_where(&self, dead: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let handles: Vec<usize> = objects.iter().filter(|(_, o)| dead(o)).map(|(&h, _)| h).collect();
        handles.iter().filter_map(|h| objects.remove(h)).collect()
    }

    fn wrong(&self, handle: usize) -> Failure {
        let what = self.what;
        match handle {
            0 => Code::INVALID_HANDLE.because(format!("the {what} is null")),
            _ => Code::INVALID_HANDLE.because(format!("{handle:#x} is no {what}")),
        }
    }
}

/// Locks, whatever a panic left behind: panics are caught at the border, and every lock holds consistent data
/// between statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
