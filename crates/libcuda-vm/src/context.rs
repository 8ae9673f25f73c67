//! Contexts, the stack of them that each thread has, and the error that breaks one for good.
use crate::{
    device::Device,
    event, graph,
    handle::{Table, lock},
    module,
    result::{Code, Failure, Result},
    stream::{self, Kind, Stream},
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
};

/// All contexts by handle.
pub static CONTEXTS: Table<Context> = Table::new(1, "context");

/// A context: streams, modules, events and allocations on one device.
pub struct Context {
    /// Its handle.
    pub handle: usize,
    /// A number that no other context of the process has.
    pub id: u64,
    /// Its device.
    pub device: &'static Device,
    /// Whether it is the device's primary context.
    pub primary: bool,
    /// `CU_CTX_*` flags.
    pub flags: AtomicU32,
    /// `CUfunc_cache`, kept for the client.
    pub cache_config: AtomicI32,
    /// `CUlimit` values that the client set.
    pub limits: Mutex<BTreeMap<i32, usize>>,
    /// The legacy default stream.
    pub legacy: Arc<Stream>,
    /// Held while work is submitted: gives all submissions of the context one order.
    pub order: Mutex<()>,
    streams: Mutex<Vec<Weak<Stream>>>,
    /// The first failure of submitted work. It stays: every later call reports it, as on a device.
    broken: AtomicI32,
    destroyed: AtomicBool,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static STACK: RefCell<Vec<Arc<Context>>> = const { RefCell::new(Vec::new()) };
}

impl Context {
    /// A new context, known by its handle.
    pub fn create(device: &'static Device, flags: u32, primary: bool) -> Arc<Context> {
        let handle = CONTEXTS.reserve();
        let context = Arc::new_cyclic(|this: &Weak<Context>| Context {
            handle,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            device,
            primary,
            flags: AtomicU32::new(flags),
            cache_config: AtomicI32::new(0),
            limits: Mutex::default(),
            legacy: Stream::new(this.clone(), Kind::Legacy, false, 0),
            order: Mutex::new(()),
            streams: Mutex::default(),
            broken: AtomicI32::new(0),
            destroyed: AtomicBool::new(false),
        });
        context.adopt(&context.legacy);
        CONTEXTS.insert(handle, context.clone());
        context
    }

    /// Lists a stream as one of this context's.
    pub fn adopt(&self, stream: &Arc<Stream>) {
        let mut streams = lock(&self.streams);
        streams.retain(|s| s.strong_count() > 0);
        streams.push(Arc::downgrade(stream));
    }

    /// The context's live streams.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).iter().filter_map(Weak::upgrade).collect()
    }

    /// The failure that broke the context, if any.
    pub fn failure(&self) -> Result<()> {
        match self.broken.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Code(code).because("earlier work of this context failed; only destroying it helps")),
        }
    }

    /// Breaks the context: the first failure stays.
    pub fn fail(&self, failure: &Failure) {
        let _ = self.broken.compare_exchange(0, failure.code.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Waits for everything submitted so far, and reports what broke.
    pub fn synchronize(&self) -> Result<()> {
        for stream in self.streams() {
            stream.drain();
        }
        crate::counters::flush_sometimes();
        self.failure()
    }

    /// Whether the context can still be used.
    pub fn alive(&self) -> Result<()> {
        if self.destroyed.load(Ordering::Acquire) { Err(Code::CONTEXT_IS_DESTROYED.into()) } else { Ok(()) }
    }

    /// Ends the context: waits for its work, then takes away everything it owns.
    pub fn destroy(&self) {
        let _ = self.synchronize();
        if self.destroyed.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = CONTEXTS.remove(self.handle);
        let mine = |owner: &Weak<Context>| owner.as_ptr() == std::ptr::from_ref(self);
        drop(stream::STREAMS.remove_where(|s| mine(&s.context)));
        drop(event::EVENTS.remove_where(|e| mine(&e.context)));
        drop(graph::EXECS.remove_where(|e| mine(&e.context)));
        module::remove_all_of(self);
        for stream in self.streams() {
            stream.close();
        }
        self.device.free_all_of(self.handle);
        crate::host::free_all_of(self.handle);
        crate::counters::flush();
    }
}

/// The calling thread's current context, fit for use: alive, unbroken, and not called from a stream callback.
pub fn current() -> Result<Arc<Context>> {
    let context = current_even_broken()?;
    context.failure()?;
    Ok(context)
}

/// Like [`current`], but a broken context will do.
pub fn current_even_broken() -> Result<Arc<Context>> {
    if stream::in_callback() {
        return Err(Code::NOT_PERMITTED.because("a host function in a stream may not call the driver"));
    }
    let top = top().ok_or_else(|| Code::INVALID_CONTEXT.because("this thread has no current context"))?;
    top.alive()?;
    Ok(top)
}

/// The top of the calling thread's stack.
pub fn top() -> Option<Arc<Context>> {
    STACK.with_borrow(|s| s.last().cloned())
}

/// Pushes a context on the calling thread's stack.
pub fn push(context: Arc<Context>) {
    STACK.with_borrow_mut(|s| s.push(context));
}

/// Pops the calling thread's stack.
pub fn pop() -> Option<Arc<Context>> {
    STACK.with_borrow_mut(Vec::pop)
}

/// Replaces the top of the calling thread's stack; `None` removes it.
pub fn set_top(context: Option<Arc<Context>>) {
    STACK.with_borrow_mut(|s| {
        s.pop();
        s.extend(context);
    });
}

/// The context of that handle.
pub fn find(handle: usize) -> Result<Arc<Context>> {
    CONTEXTS.find(handle).ok_or_else(|| Code::INVALID_CONTEXT.because(format!("{handle:#x} is no context")))
}
