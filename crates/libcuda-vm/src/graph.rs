//! Graphs: operations and their order, kept to be run again.
//!
//! A graph is instantiated into an [`Exec`], a copy in an order that respects all edges; launching one submits it to a
//! stream as one task. Branches run one after another: any order that the edges allow is right.
use crate::{
    context::Context,
    graph_memory,
    handle::{Table, lock},
    op::Op,
    result::{Code, Result},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
};

/// All graphs by handle.
pub static GRAPHS: Table<Graph> = Table::new(9, "graph");
/// All nodes by handle.
pub static NODES: Table<NodeRef> = Table::new(10, "graph node");
/// All instantiated graphs by handle.
pub static EXECS: Table<Exec> = Table::new(11, "instantiated graph");

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`.
const AUTO_FREE: u64 = 1;

/// Operations and edges between them.
pub struct Graph {
    /// Its handle.
    pub handle: usize,
    nodes: Mutex<Vec<Node>>,
    /// What it was last made ready as.
    ready: Mutex<Weak<Exec>>,
}

struct Node {
    handle: usize,
    op: Op,
    after: BTreeSet<usize>,
    deleted: bool,
}

/// Where a node is.
pub struct NodeRef {
    /// Its handle.
    pub handle: usize,
    /// Its graph.
    pub graph: Weak<Graph>,
    /// Its number in the graph.
    pub index: usize,
}

/// A graph ready to launch.
pub struct Exec {
    /// Its handle.
    pub handle: usize,
    /// The context it was made in.
    pub context: Weak<Context>,
    /// `CUDA_GRAPH_INSTANTIATE_FLAG_*`.
    pub flags: u64,
    steps: Mutex<Vec<Step>>,
}

#[derive(Clone)]
struct Step {
    /// The node's handle in the graph that it comes from.
    node: usize,
    op: Op,
    enabled: bool,
}

impl Drop for Graph {
    fn drop(&mut self) {
        for node in &*lock(&self.nodes) {
            let _ = NODES.remove(node.handle);
        }
    }
}

impl Graph {
    /// An empty graph, known by its handle.
    pub fn create() -> Arc<Graph> {
        let handle = GRAPHS.reserve();
        let graph = Arc::new(Graph { handle, nodes: Mutex::default(), ready: Mutex::default() });
        GRAPHS.insert(handle, graph.clone());
        graph
    }

    /// Adds a node after those of `after`.
    pub fn add(self: &Arc<Self>, op: Op, after: &[usize]) -> Result<Arc<NodeRef>> {
        let mut nodes = lock(&self.nodes);
        let after: BTreeSet<usize> = after.iter().copied().collect();
        if after.iter().any(|&a| nodes.get(a).is_none_or(|n| n.deleted)) {
            return Err(Code::INVALID_VALUE.because("a dependency is not in this graph"));
        }
        let handle = NODES.reserve();
        let node = Arc::new(NodeRef { handle, graph: Arc::downgrade(self), index: nodes.len() });
        nodes.push(Node { handle, op, after, deleted: false });
        NODES.insert(handle, node.clone());
        Ok(node)
    }

    /// Number of the node of that handle, which must be in this graph.
    pub fn index_of(self: &Arc<Self>, handle: usize) -> Result<usize> {
        let node = NODES.find(handle).filter(|n| std::ptr::eq(n.graph.as_ptr(), Arc::as_ptr(self)));
        node.map(|n| n.index).ok_or_else(|| Code::INVALID_VALUE.because("a node is not in this graph"))
    }

    /// The live nodes' handles, in the order in which they were added.
    pub fn nodes(&self) -> Vec<usize> {
        lock(&self.nodes).iter().filter(|n| !n.deleted).map(|n| n.handle).collect()
    }

    /// All nodes' handles by number, deleted ones too.
    pub fn handles(&self) -> Vec<usize> {
        lock(&self.nodes).iter().map(|n| n.handle).collect()
    }

    /// The live nodes that depend on nothing.
    pub fn roots(&self) -> Vec<usize> {
        lock(&self.nodes).iter().filter(|n| !n.deleted && n.after.is_empty()).map(|n| n.handle).collect()
    }

    /// All edges, as handles: from, to.
    pub fn edges(&self) -> Vec<(usize, usize)> {
        let nodes = lock(&self.nodes);
        let live = nodes.iter().filter(|n| !n.deleted);
        live.flat_map(|to| to.after.iter().map(|&from| (nodes[from].handle, to.handle))).collect()
    }

    /// Adds or removes edges, given as node numbers.
    pub fn set_edges(&self, edges: &[(usize, usize)], present: bool) -> Result<()> {
        let mut nodes = lock(&self.nodes);
        for &(from, to) in edges {
            let after = &mut nodes[to].after;
            let changed = if present { after.insert(from) } else { after.remove(&from) };
            if !changed || from == to {
                return Err(
                    Code::INVALID_VALUE.because("an edge is there already, is not there, or is a loop")
                );
            }
        }
        Ok(())
    }

    /// Everything that comes before or among these nodes.
    pub fn ancestors(&self, of: &BTreeSet<usize>) -> BTreeSet<usize> {
        let nodes = lock(&self.nodes);
        let (mut found, mut open) = (of.clone(), of.iter().copied().collect::<Vec<_>>());
        while let Some(i) = open.pop() {
            open.extend(nodes[i].after.iter().filter(|&&a| found.insert(a)));
        }
        found
    }

    /// A copy with nodes of its own, known by its handle.
    pub fn duplicate(&self) -> Result<Arc<Graph>> {
        let copy = Graph::create();
        for node in &*lock(&self.nodes) {
            let added = copy.add(node.op.clone(), &[])?;
            let mut nodes = lock(&copy.nodes);
            nodes[added.index].after.clone_from(&node.after);
            nodes[added.index].deleted = node.deleted;
        }
        Ok(copy)
    }

    /// Refuses what a graph with memory of its own cannot do.
    pub fn without_memory(&self, what: &str) -> Result<()> {
        match lock(&self.nodes).iter().any(|n| n.op.is_memory()) {
            true => Err(Code::NOT_SUPPORTED.because(format!("a graph that allocates cannot {what}"))),
            false => Ok(()),
        }
    }

    /// The live operations in an order that the edges allow.
    fn in_order(&self) -> Result<Vec<Step>> {
        let nodes = lock(&self.nodes);
        let mut left: Vec<usize> = (0..nodes.len()).filter(|&i| !nodes[i].deleted).collect();
        let mut done = BTreeSet::new();
        let mut steps = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let before = left.len();
            left.retain(|&i| {
                let ready = nodes[i].after.is_subset(&done);
                if ready {
                    done.insert(i);
                    steps.push(Step { node: nodes[i].handle, op: nodes[i].op.clone(), enabled: true });
                }
                !ready
            });
            if left.len() == before {
                return Err(Code::INVALID_VALUE.because("the graph has a cycle"));
            }
        }
        Ok(steps)
    }
}

impl NodeRef {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Node>) -> T) -> Result<T> {
        let graph = self
            .graph
            .upgrade()
            .ok_or_else(|| Code::INVALID_VALUE.because("the node's graph is destroyed"))?;
        let result = f(&mut lock(&graph.nodes));
        Ok(result)
    }

    /// Its operation.
    pub fn op(&self) -> Result<Op> {
        self.with(|nodes| nodes[self.index].op.clone())
    }

    /// Replaces its operation by one of the same kind.
    pub fn set_op(&self, op: Op) -> Result<()> {
        self.with(|nodes| replace(&mut nodes[self.index].op, op))?
    }

    /// The nodes right before it.
    pub fn dependencies(&self) -> Result<Vec<usize>> {
        self.with(|nodes| nodes[self.index].after.iter().map(|&a| nodes[a].handle).collect())
    }

    /// The nodes right after it.
    pub fn dependents(&self) -> Result<Vec<usize>> {
        let follows = |n: &&Node| !n.deleted && n.after.contains(&self.index);
        self.with(|nodes| nodes.iter().filter(follows).map(|n| n.handle).collect())
    }

    /// Takes it out of its graph, with its edges.
    pub fn delete(&self) -> Result<()> {
        if self.op()?.is_memory() {
            return Err(Code::NOT_SUPPORTED.because("a node that allocates or frees stays"));
        }
        self.with(|nodes| {
            nodes[self.index].deleted = true;
            for node in nodes {
                node.after.remove(&self.index);
            }
        })
    }
}

fn replace(old: &mut Op, new: Op) -> Result<()> {
    if std::mem::discriminant(old) != std::mem::discriminant(&new) {
        return Err(Code::INVALID_VALUE.because("the node is of another kind"));
    }
    *old = new;
    Ok(())
}

/// Why one graph cannot take another's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// `CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED`
    Topology = 2,
    /// `CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED`
    NodeType = 3,
}

impl Exec {
    /// Makes a graph ready to launch.
    pub fn create(context: &Arc<Context>, graph: &Graph, flags: u64) -> Result<Arc<Exec>> {
        let mut ready = lock(&graph.ready);
        if ready.strong_count() > 0 {
            graph.without_memory("be instantiated twice at a time")?;
        }
        let steps = Mutex::new(graph.in_order()?);
        let handle = EXECS.reserve();
        let exec = Arc::new(Exec { handle, context: Arc::downgrade(context), flags, steps });
        EXECS.insert(handle, exec.clone());
        *ready = Arc::downgrade(&exec);
        Ok(exec)
    }

    /// A graph as one operation of another: not known by a handle.
    pub fn nested(graph: &Graph) -> Result<Arc<Exec>> {
        let steps = Mutex::new(graph.in_order()?);
        Ok(Arc::new(Exec { handle: graph.handle, context: Weak::new(), flags: 0, steps }))
    }

    /// What it does now, for one launch: later changes of parameters leave that launch alone.
    pub fn frozen(&self) -> Result<Arc<Exec>> {
        let steps: Vec<Step> = lock(&self.steps).iter().filter(|s| s.enabled).cloned().collect();
        graph_memory::submit(steps.iter().map(|s| &s.op), self.flags & AUTO_FREE != 0)?;
        let steps = Mutex::new(steps);
        Ok(Arc::new(Exec { handle: self.handle, context: self.context.clone(), flags: self.flags, steps }))
    }

    /// Does it all.
    pub fn run(&self, context: &Context) -> Result<()> {
        let steps = lock(&self.steps).clone();
        steps.iter().filter(|s| s.enabled).try_for_each(|s| s.op.run(context))
    }

    /// Changes the step of a node.
    fn change<T>(&self, node: usize, f: impl FnOnce(&mut Step) -> T) -> Result<T> {
        let mut steps = lock(&self.steps);
        let step = steps.iter_mut().find(|s| s.node == node);
        step.map(f)
            .ok_or_else(|| Code::INVALID_VALUE.because("the node is not in the graph this was made of"))
    }

    /// Replaces the operation of a node's step by one of the same kind.
    pub fn set_op(&self, node: usize, op: Op) -> Result<()> {
        self.change(node, |step| replace(&mut step.op, op))?
    }

    /// Switches a node's step on or off.
    pub fn set_enabled(&self, node: usize, enabled: bool) -> Result<()> {
        self.change(node, |step| step.enabled = enabled)
    }

    /// Whether a node's step is on.
    pub fn is_enabled(&self, node: usize) -> Result<bool> {
        self.change(node, |step| step.enabled)
    }

    /// Takes the parameters of a graph of the same shape.
    pub fn update(&self, graph: &Graph) -> Result<Result<(), Mismatch>> {
        let new = graph.in_order()?;
        let mut steps = lock(&self.steps);
        if new.len() != steps.len() {
            return Ok(Err(Mismatch::Topology));
        }
        let differs =
            |(old, new): (&Step, &Step)| std::mem::discriminant(&old.op) != std::mem::discriminant(&new.op);
        if steps.iter().zip(&new).any(differs) {
            return Ok(Err(Mismatch::NodeType));
        }
        for (old, new) in steps.iter_mut().zip(new) {
            old.op = new.op;
        }
        Ok(Ok(()))
    }
}
