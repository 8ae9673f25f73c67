//! Weights, dense or int8, and their gradients.

use device::{Buffer, Device};
use int8_matmul::{PackInt8, PackInt8Args, QuantizeWeight, QuantizeWeightArgs, UnpackInt8, UnpackInt8Args};
use matmul::{PackBf16, PackBf16Args, PackWeight, PackWeightArgs, Packed, UnpackBf16, UnpackBf16Args};
use std::collections::HashMap;

/// Names a weight in its [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub(crate) usize);

/// How a weight is used, which decides what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// A vector or a matrix that is read as it lies (norms, biases, embeddings, adapters).
    Plain,
    /// `[out, in]` of a linear layer: a packed copy serves the forward pass.
    Linear,
}

pub(crate) enum Value {
    Dense {
        data: Buffer,
        packed: Option<Buffer>,
        stale: bool,
    },
    Int8 {
        packed: Buffer<i8>,
        scb: Buffer,
    },
    /// `data` when the weight is also read row by row (tied embeddings).
    Bf16 {
        packed: Buffer<u32>,
        data: Option<Buffer>,
    },
}

/// One weight.
pub struct Param {
    /// The canonical name, e.g. `layers.3.qkv.weight`.
    pub name: String,
    /// Rows; 1 for vectors. For linear weights, outputs.
    pub rows: usize,
    /// Columns. For linear weights, inputs.
    pub cols: usize,
    /// Whether a backward pass forms its gradient.
    pub trainable: bool,
    kind: ParamKind,
    pub(crate) value: Value,
}

impl Param {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when held as int8.
    pub fn is_int8(&self) -> bool {
        matches!(self.value, Value::Int8 { .. })
    }

    /// Bytes that the forward pass reads of it.
    pub fn bytes(&self) -> usize {
        let each = match self.value {
            Value::Dense { .. } => 4,
            Value::Int8 { .. } => 1,
            Value::Bf16 { .. } => 2,
        };
        each * self.len()
    }

    /// The elements `[rows, cols]` in f32; an int8 weight is dequantised.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.value {
            Value::Dense { data, .. } | Value::Bf16 { data: Some(data), .. } => data.to_vec(),
            Value::Bf16 { packed, .. } => {
                let (device, n, k) = (packed.device(), self.rows, self.cols);
                let mut w = device.alloc(n * k);
                device.run(&UnpackBf16 { n, k }, UnpackBf16Args { packed: packed.arg(), w: w.arg_mut() });
                w.to_vec()
            }
            Value::Int8 { packed, scb } => {
                let (device, n, k) = (packed.device(), self.rows, self.cols);
                let mut q = device.alloc::<i8>(n * k);
                device.run(&UnpackInt8 { n, k }, UnpackInt8Args { packed: packed.arg(), q: q.arg_mut() });
                let (q, scb) = (q.to_vec(), scb.to_vec());
                let scales = scb.iter().map(|s| s / 127.0);
                let rows = q.chunks_exact(self.cols.max(1)).zip(scales);
                rows.flat_map(|(row, s)| row.iter().map(move |v| f32::from(*v) * s)).collect()
            }
        }
    }
}

/// Says what the next buffers are for, in a dry run's report.
fn labelled(name: &str) -> device::Labelled {
    let category = match name {
        _ if name.contains(".lora.") => "adapters",
        _ if name.starts_with("heads.") => "heads",
        _ => "weights",
    };
    device::label(category, name.to_string())
}

/// All weights of a model, in the order they were added.
pub struct Params {
    device: Device,
    list: Vec<Param>,
    by_name: HashMap<String, ParamId>,
}

impl Params {
    /// No weights yet.
    pub fn new(device: &Device) -> Self {
        Params { device: device.clone(), list: Vec::new(), by_name: HashMap::new() }
    }

    /// The device that holds the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds a weight `[rows, cols]`; frozen until [`Params::set_trainable`].
    pub fn add(&mut self, name: &str, rows: usize, cols: usize, kind: ParamKind, data: &[f32]) -> ParamId {
        assert_eq!(data.len(), rows * cols, "{name}: length");
        let _label = labelled(name);
        let data = self.device.upload(data);
        self.push(name, rows, cols, kind, Value::Dense { data, packed: None, stale: true })
    }

    /// Adds a linear weight `[rows, cols]` directly in int8, so that no dense copy outlives the call.
    pub fn add_int8(&mut self, name: &str, rows: usize, cols: usize, data: &[f32]) -> ParamId {
        assert_eq!(data.len(), rows * cols, "{name}: length");
        let _label = labelled(name);
        let dense = self.device.upload(data);
        let value = self.quantized(&dense, rows, cols);
        self.push(name, rows, cols, ParamKind::Linear, value)
    }

    /// Adds a linear weight `[rows, cols]` that is int8 already: `w = q * scb / 127`, row by row.
    pub fn add_quantized(&mut self, name: &str, rows: usize, cols: usize, q: &[i8], scb: &[f32]) -> ParamId {
        assert_eq!((q.len(), scb.len()), (rows * cols, rows), "{name}: length");
        let _label = labelled(name);
        let value = self.packed_int8(&self.device.upload(q), self.device.upload(scb), rows, cols);
        self.push(name, rows, cols, ParamKind::Linear, value)
    }

    fn push(&mut self, name: &str, rows: usize, cols: usize, kind: ParamKind, value: Value) -> ParamId {
        let id = ParamId(self.list.len());
        let old = self.by_name.insert(name.to_string(), id);
        assert!(old.is_none(), "{name}: added twice");
        self.list.push(Param { name: name.to_string(), rows, cols, trainable: false, kind, value });
        id
    }

    fn quantized(&self, dense: &Buffer, n: usize, k: usize) -> Value {
        let mut q = self.device.alloc::<i8>(n * k);
        let mut scb = self.device.alloc::<f32>(n);
        let args = QuantizeWeightArgs { w: dense.arg(), q: q.arg_mut(), scb: scb.arg_mut() };
        self.device.run(&QuantizeWeight { n, k }, args);
        self.packed_int8(&q, scb, n, k)
    }

    fn packed_int8(&self, q: &Buffer<i8>, scb: Buffer, n: usize, k: usize) -> Value {
        let mut packed = self.device.alloc::<i8>(int8_matmul::packed_len(n, k));
        self.device.run(&PackInt8 { n, k }, PackInt8Args { q: q.arg(), packed: packed.arg_mut() });
        Value::Int8 { packed, scb }
    }

    /// Replaces a dense linear weight by its int8 form (LLM.int8, row-wise absmax) and frees the dense one.
    pub fn quantize(&mut self, id: ParamId) {
        let p = &self.list[id.0];
        assert_eq!(p.kind, ParamKind::Linear, "{}: only linear weights are quantised", p.name);
        if let Value::Dense { data, .. } = &p.value {
            let _label = labelled(&p.name);
            let value = self.quantized(data, p.rows, p.cols);
            self.list[id.0].value = value;
            self.list[id.0].trainable = false;
        }
    }

    /// Holds a dense linear weight in bf16 from now on, frozen. `rows` says that it is also read row by row: then
    /// the dense elements stay beside the packed ones.
    pub fn to_bf16(&mut self, id: ParamId, rows: bool) {
        let p = &mut self.list[id.0];
        let (n, k) = (p.rows, p.cols);
        assert_eq!(p.kind, ParamKind::Linear, "{}: only linear weights are packed", p.name);
        if let Value::Dense { data, .. } = &p.value {
            let _label = labelled(&p.name);
            let mut packed = self.device.alloc::<u32>(matmul::bf16_packed_len(n, k));
            self.device.run(&PackBf16 { n, k }, PackBf16Args { w: data.arg(), packed: packed.arg_mut() });
            let data = rows.then(|| data.clone());
            p.value = Value::Bf16 { packed, data };
            p.trainable = false;
        }
    }

    /// Looks a weight up by its canonical name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// One weight.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id.0]
    }

    /// All weights in order.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        self.list.iter().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// Decides for every dense weight whether it is trained. Int8 and bf16 weights stay frozen.
    pub fn set_trainable(&mut self, choose: impl Fn(&str) -> bool) {
        for p in &mut self.list {
            p.trainable = matches!(p.value, Value::Dense { .. }) && choose(&p.name);
        }
    }

    /// The trainable weights in order.
    pub fn trainable(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        self.iter().filter(|(_, p)| p.trainable)
    }

    /// A dense weight's elements.
    ///
    /// # Panics
    /// For a weight that is held in int8 or bf16 only.
    pub fn data(&self, id: ParamId) -> &Buffer {
        self.dense(id).unwrap_or_else(|| panic!("{}: the weight has no dense data", self.list[id.0].name))
    }

    /// As [`Params::data`], if there are any.
    pub(crate) fn dense(&self, id: ParamId) -> Option<&Buffer> {
        match &self.list[id.0].value {
            Value::Dense { data, .. } | Value::Bf16 { data: Some(data), .. } => Some(data),
            Value::Int8 { .. } | Value::Bf16 { data: None, .. } => None,
        }
    }

    /// A dense weight's elements for writing; call [`Params::pack`] before the next forward pass.
    ///
    /// # Panics
    /// For an int8 or bf16 weight.
    pub fn data_mut(&mut self, id: ParamId) -> &mut Buffer {
        let p = &mut self.list[id.0];
        match &mut p.value {
            Value::Dense { data, stale, .. } => {
                *stale = true;
                data
            }
            Value::Int8 { .. } | Value::Bf16 { .. } => panic!("{}: int8 and bf16 weights are frozen", p.name),
        }
    }

    /// The elements of several dense weights for writing, `ids` ascending; as [`Params::data_mut`] for each.
    ///
    /// # Panics
    /// For an int8 or bf16 weight, or when the ids do not ascend.
    pub fn data_of_mut(&mut self, ids: &[ParamId]) -> Vec<&mut Buffer> {
        let mut wanted = ids.iter().copied().peekable();
        let mut found = Vec::with_capacity(ids.len());
        for (i, p) in self.list.iter_mut().enumerate() {
            if wanted.next_if_eq(&ParamId(i)).is_none() {
                continue;
            }
            match &mut p.value {
                Value::Dense { data, stale, .. } => {
                    *stale = true;
                    found.push(data);
                }
                Value::Int8 { .. } | Value::Bf16 { .. } => {
                    panic!("{}: int8 and bf16 weights are frozen", p.name)
                }
            }
        }
        assert_eq!(found.len(), ids.len(), "ids must ascend");
        found
    }

    /// Packs every linear weight that changed since the last call. Frozen weights are packed once.
    pub fn pack(&mut self) {
        for p in &mut self.list {
            let (n, k) = (p.rows, p.cols);
            if let (ParamKind::Linear, Value::Dense { data, packed, stale }) = (p.kind, &mut p.value)
                && *stale
            {
                let _label = labelled(&p.name);
                let packed = packed.get_or_insert_with(|| self.device.alloc(matmul::packed_len(n, k)));
                let args = PackWeightArgs { w: data.arg(), packed: packed.arg_mut() };
                self.device.run(&PackWeight { n, k }, args);
                *stale = false;
            }
        }
    }

    /// The packed form of a dense or bf16 linear weight.
    ///
    /// # Panics
    /// When the weight changed since the last [`Params::pack`].
    pub fn packed(&self, id: ParamId) -> Packed<'_> {
        match &self.list[id.0].value {
            Value::Dense { packed: Some(packed), stale: false, .. } => packed.arg().into(),
            Value::Bf16 { packed, .. } => packed.arg().into(),
            _ => panic!("{}: Params::pack was not called after the last change", self.list[id.0].name),
        }
    }
}

/// Gradients of the trainable weights, added up over backward passes until cleared.
#[derive(Default)]
pub struct Grads {
    list: Vec<Option<Buffer>>,
}

impl Grads {
    /// No gradients yet.
    pub fn new() -> Self {
        Grads::default()
    }

    /// The gradient `[rows, cols]` of a weight, if any backward pass formed one.
    pub fn get(&self, id: ParamId) -> Option<&Buffer> {
        self.list.get(id.0).and_then(Option::as_ref)
    }

    /// The gradient buffer of a weight, zeroed at first use.
    pub fn entry(&mut self, params: &Params, id: ParamId) -> &mut Buffer {
        if self.list.len() <= id.0 {
            self.list.resize_with(id.0 + 1, || None);
        }
        self.list[id.0].get_or_insert_with(|| {
            let p = params.get(id);
            let _label = device::label("gradients", p.name.clone());
            params.device.zeros(p.len())
        })
    }

    /// The gradient buffers of several weights, zeroed at first use, `ids` ascending.
    ///
    /// # Panics
    /// When the ids do not ascend.
    pub fn of_mut(&mut self, params: &Params, ids: &[ParamId]) -> Vec<&mut Buffer> {
        for id in ids {
            self.entry(params, *id);
        }
        let mut wanted = ids.iter().copied().peekable();
        let found: Vec<_> = (self.list.iter_mut().enumerate())
            .filter_map(|(i, g)| wanted.next_if_eq(&ParamId(i)).and(g.as_mut()))
            .collect();
        assert_eq!(found.len(), ids.len(), "ids must ascend");
        found
    }

    /// Takes the gradient buffer of a weight out, zeroed at first use; give it back with [`Grads::put`].
    pub(crate) fn take(&mut self, params: &Params, id: ParamId) -> Buffer {
        self.entry(params, id);
        self.list[id.0].take().expect("just made")
    }

    pub(crate) fn put(&mut self, id: ParamId, buffer: Buffer) {
        self.list[id.0] = Some(buffer);
    }

    /// Sets all gradients to zero and keeps their buffers.
    pub fn clear(&mut self) {
        for g in self.list.iter_mut().flatten() {
            g.fill(0.0);
        }
    }
}
