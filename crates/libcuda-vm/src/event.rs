//! Events: named points in streams.
use crate::{
    capture::Recorded,
    context::Context,
    fence::Fence,
    handle::{Table, lock},
    result::{Code, Result},
};
use std::sync::{Arc, Mutex, Weak};

/// All events by handle.
pub static EVENTS: Table<Event> = Table::new(3, "event");

/// `CU_EVENT_DISABLE_TIMING`.
pub const DISABLE_TIMING: u32 = 2;

/// A named point, recorded any number of times.
pub struct Event {
    /// Its handle.
    pub handle: usize,
    /// Its context.
    pub context: Weak<Context>,
    /// `CU_EVENT_*` flags.
    pub flags: u32,
    last: Mutex<Last>,
}

/// Where the event was recorded last.
#[derive(Default, Clone)]
enum Last {
    #[default]
    Never,
    Stream(Arc<Fence>),
    Capture(Recorded),
}

impl Event {
    /// A new event, known by its handle.
    pub fn create(context: &Arc<Context>, flags: u32) -> Arc<Event> {
        let handle = EVENTS.reserve();
        let context = Arc::downgrade(context);
        let event = Arc::new(Event { handle, context, flags, last: Mutex::default() });
        EVENTS.insert(handle, event.clone());
        event
    }

    /// Recorded in a stream: reached with this fence.
    pub fn set_fence(&self, fence: Arc<Fence>) {
        *lock(&self.last) = Last::Stream(fence);
    }

    /// Recorded in a capture.
    pub fn set_captured(&self, recorded: Recorded) {
        *lock(&self.last) = Last::Capture(recorded);
    }

    /// Recorded and reached now: a graph's record node.
    pub fn reach_now(&self) {
        let fence = Arc::<Fence>::default();
        fence.reach();
        self.set_fence(fence);
    }

    /// The fence of the last record in a stream.
    pub fn fence(&self) -> Option<Arc<Fence>> {
        match &*lock(&self.last) {
            Last::Stream(fence) => Some(fence.clone()),
            _ => None,
        }
    }

    /// The last record, if it was in a capture.
    pub fn captured(&self) -> Option<Recorded> {
        match &*lock(&self.last) {
            Last::Capture(recorded) => Some(recorded.clone()),
            _ => None,
        }
    }

    /// The fence to ask or wait for; `None` when the event was never recorded, which counts as reached.
    pub fn pending(&self) -> Result<Option<Arc<Fence>>> {
        match self.captured() {
            Some(_) => Err(Code::CAPTURED_EVENT.into()),
            None => Ok(self.fence()),
        }
    }
}

/// Milliseconds from one event to another.
pub fn elapsed(start: &Event, end: &Event) -> Result<f32> {
    if (start.flags | end.flags) & DISABLE_TIMING != 0 {
        return Err(Code::INVALID_HANDLE.because("an event was created with timing disabled"));
    }
    let never = || Code::INVALID_HANDLE.because("an event was never recorded");
    let (start, end) = (start.pending()?.ok_or_else(never)?, end.pending()?.ok_or_else(never)?);
    match (start.when(), end.when()) {
        (Some(a), Some(b)) if b >= a => Ok((b - a).as_secs_f64() as f32 * 1e3),
        (Some(a), Some(b)) => Ok((a - b).as_secs_f64() as f32 * -1e3),
        _ => Err(Code::NOT_READY.into()),
    }
}
