//! One step of generation: inputs, device work, draws; repeated steps as a graph.

use crate::{
    Batch, Model,
    generate::{Job, KvCache, StepRows},
};
use device::{Buffer, Device, Graph};
use std::rc::Rc;

/// A step's inputs on the device.
pub(crate) struct Inputs {
    pub batch: Batch,
    /// `[rows]` cache slot of each row.
    pub slots: Rc<Buffer<u32>>,
    /// The last row of each sequence.
    pub last: Rc<Buffer<u32>>,
    /// `[sequences]` stream number and position of the token about to be drawn.
    pub streams: Buffer<u32>,
    pub next: Buffer<u32>,
}

impl Inputs {
    fn new(device: &Device, rows: &StepRows) -> Self {
        let batch = Batch::from_parts(device, &rows.ids, &rows.positions, rows.starts.clone());
        Inputs {
            slots: Rc::new(device.upload(&rows.slots)),
            last: Rc::new(device.upload(&batch.last_rows())),
            streams: device.upload(&rows.streams),
            next: device.upload(&rows.next),
            batch,
        }
    }

    /// Overwrites what changes from one step to the next of the same shape.
    fn write(&mut self, rows: &StepRows) {
        let only = "nobody else holds a step's inputs between steps";
        Rc::get_mut(&mut self.batch.ids).expect(only).write(&rows.ids);
        Rc::get_mut(&mut self.batch.rows.positions).expect(only).write(&rows.positions);
        Rc::get_mut(&mut self.slots).expect(only).write(&rows.slots);
        self.streams.write(&rows.streams);
        self.next.write(&rows.next);
    }
}

/// What a step drew for every sequence.
pub(crate) struct Drawn {
    pub token: Buffer<u32>,
    pub logprob: Buffer,
    pub values: Option<Buffer>,
}

impl Drawn {
    pub fn to_vecs(&self) -> (Vec<u32>, Vec<f32>, Option<Vec<f32>>) {
        (self.token.to_vec(), self.logprob.to_vec(), self.values.as_ref().map(Buffer::to_vec))
    }
}

/// The last step, and its graph if it was like the one before it.
#[derive(Default)]
pub(crate) struct Decode {
    /// Sequences of the last step, if each had one row.
    shape: Option<usize>,
    captured: Option<(Graph, Inputs, Drawn)>,
    plain: Option<Drawn>,
}

impl Decode {
    /// Runs a step. The second decode step of the same shape in a row is captured, those after it replay the graph.
    pub fn step(&mut self, model: &Model, rows: &StepRows, cache: &mut KvCache, job: &Job<'_>) -> &Drawn {
        let n = rows.streams.len();
        let shape = (rows.ids.len() == n).then_some(n);
        let again = shape.is_some() && shape == self.shape;
        self.shape = shape;
        if !again {
            self.captured = None;
        } else if self.captured.is_none() {
            self.captured = capture(model, rows, cache, job);
        }
        if let Some((graph, inputs, drawn)) = &mut self.captured {
            // The cache's slots lie in the captured inputs, too.
            cache.release_slots();
            inputs.write(rows);
            graph.replay().unwrap_or_else(|e| std::panic::resume_unwind(Box::new(e)));
            return drawn;
        }
        let inputs = Inputs::new(model.device(), rows);
        self.plain.insert(model.decode(&inputs, cache, job))
    }
}

/// None where the device has no graphs.
fn capture(
    model: &Model,
    rows: &StepRows,
    cache: &mut KvCache,
    job: &Job<'_>,
) -> Option<(Graph, Inputs, Drawn)> {
    if !model.device().has_graphs() {
        return None;
    }
    let inputs = Inputs::new(model.device(), rows);
    let mut drawn = None;
    let graph = model.device().capture(|| drawn = Some(model.decode(&inputs, cache, job)));
    // A driver that cannot capture what a step does runs it step by step.
    Some((graph.ok()??, inputs, drawn?))
}
