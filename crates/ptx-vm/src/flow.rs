//! Basic blocks, and where threads that part at a branch meet again: the immediate post-dominator of the branch.
//!
//! A block's post-dominators are the blocks on every way from it to the end. Threads that never reach the end need no
//! meeting, so two kinds of ways do not count: a guarded `exit` or `ret` (the threads that leave are gone, the others
//! go on in the same block's successor), and ways that end in `trap`, such as a failed assertion. In an endless loop
//! its last block counts as an end.
//!
//! Post-dominators are dominators of the reversed graph, found by the iteration of Cooper, Harvey and Kennedy ("A
//! Simple, Fast Dominance Algorithm", 2001): walk in reverse post-order, intersect along the tree until nothing moves.
mod pressure;
pub(crate) mod undefined;

use crate::syntax::ast::*;
pub(crate) use pressure::operand;
pub use pressure::registers;

/// Steps through the tree before the search is given up: the algorithm is quadratic on graphs made to be slow.
const MOST_STEPS: u64 = 1 << 30;

/// A run of instructions that is entered at its start and left at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first instruction.
    pub start: u32,
    /// One past the last instruction.
    pub end: u32,
    /// Blocks that may follow, without repetition; empty where every thread leaves.
    pub successors: Vec<u32>,
    /// The block where all threads that leave this one meet again; `None` is the end of the function.
    pub post_dominator: Option<u32>,
}

/// The control-flow graph of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Blocks in the order of the code.
    pub blocks: Vec<Block>,
    /// The block of each instruction.
    pub block_of: Vec<u32>,
}

impl Flow {
    /// Where threads that part at instruction `at`, the last of its block, meet again: the index of an instruction,
    /// or `None` for the end of the function.
    pub fn join(&self, at: u32) -> Option<u32> {
        let block = &self.blocks[self.block_of[at as usize] as usize];
        block.post_dominator.map(|b| self.blocks[b as usize].start)
    }
}

/// How an instruction ends a block.
enum Ending {
    /// It does not.
    None,
    /// Jumps, and may fall through.
    Jump { falls: bool },
    /// Leaves the function, and may fall through.
    Leave { falls: bool },
    /// Stops the program.
    Stop { falls: bool },
}

fn ending(instr: &Instr) -> Ending {
    let falls = instr.guard.is_some();
    match instr.op {
        Opcode::Bra | Opcode::BrxIdx => Ending::Jump { falls },
        Opcode::Ret | Opcode::Exit => Ending::Leave { falls },
        Opcode::Trap => Ending::Stop { falls },
        _ => Ending::None,
    }
}

fn targets(instr: &Instr) -> impl Iterator<Item = u32> + '_ {
    instr
        .operands
        .iter()
        .flat_map(|operand| match &operand.kind {
            OperandKind::Label(at) => std::slice::from_ref(at),
            OperandKind::Labels(list) => list.as_slice(),
            _ => &[],
        })
        .copied()
}

/// The graph of a function's body; empty for a prototype.
pub fn flow(function: &Function) -> Flow {
    let instrs: &[Instr] = function.body.as_ref().map_or(&[], |b| &b.instrs);
    if instrs.is_empty() {
        return Flow::default();
    }
    let mut flow = split(instrs);
    let (ends, doomed) = connect(&mut flow, instrs);
    post_dominators(&mut flow.blocks, ends, &doomed);
    flow
}

/// Cuts the code at every target and after every ending.
fn split(instrs: &[Instr]) -> Flow {
    let mut leader = vec![false; instrs.len() + 1];
    leader[0] = true;
    for (i, instr) in instrs.iter().enumerate() {
        targets(instr).for_each(|t| leader[t as usize] = true);
        leader[i + 1] |= !matches!(ending(instr), Ending::None);
    }
    let mut flow = Flow::default();
    for i in 0..instrs.len() as u32 {
        if leader[i as usize] {
            flow.blocks.push(Block { start: i, end: i, successors: Vec::new(), post_dominator: None });
        }
        let last = flow.blocks.len() - 1;
        flow.blocks[last].end = i + 1;
        flow.block_of.push(last as u32);
    }
    flow
}

/// Fills in successors. Returns which blocks lead out of the function and which into a `trap`.
fn connect(flow: &mut Flow, instrs: &[Instr]) -> (Vec<bool>, Vec<bool>) {
    let count = flow.blocks.len();
    let (mut ends, mut stops) = (vec![false; count], vec![false; count]);
    for b in 0..count {
        let last = &instrs[flow.blocks[b].end as usize - 1];
        let mut successors = Vec::new();
        // A label at the very end of the code is the end of the function.
        let mut follow = |at: u32, ends: &mut [bool]| match flow.block_of.get(at as usize) {
            Some(&block) => successors.push(block),
            None => ends[b] = true,
        };
        let next = flow.blocks[b].end;
        let falls = match ending(last) {
            Ending::None => true,
            Ending::Jump { falls } => {
                targets(last).for_each(|t| follow(t, &mut ends));
                falls
            }
            Ending::Leave { falls } => {
                ends[b] |= !falls;
                falls
            }
            Ending::Stop { falls } => {
                stops[b] = !falls;
                falls
            }
        };
        if falls {
            follow(next, &mut ends);
        }
        successors.sort_unstable();
        successors.dedup();
        flow.blocks[b].successors = successors;
    }
    (ends, stops)
}

/// Blocks from which some block in `from` can be reached, added to `seen`; `order` gets them in post-order.
fn backwards(predecessors: &[Vec<u32>], from: usize, seen: &mut [bool], order: &mut Vec<usize>) {
    if std::mem::replace(&mut seen[from], true) {
        return;
    }
    let mut stack = vec![(from, 0)];
    while let Some((block, next)) = stack.last_mut() {
        match predecessors[*block].get(*next) {
            Some(&p) => {
                *next += 1;
                if !std::mem::replace(&mut seen[p as usize], true) {
                    stack.push((p as usize, 0));
                }
            }
            None => {
                order.push(*block);
                stack.pop();
            }
        }
    }
}

/// Sets every block's immediate post-dominator. The root of the reversed graph is the end of the function.
fn post_dominators(blocks: &mut [Block], mut ends: Vec<bool>, stops: &[bool]) {
    let count = blocks.len();
    let mut predecessors = vec![Vec::new(); count + 1];
    for (b, block) in blocks.iter().enumerate() {
        block.successors.iter().for_each(|&s| predecessors[s as usize].push(b as u32));
    }
    // Blocks that reach an end, then those that reach only a trap, then endless loops, whose last block ends them.
    let mut seen = vec![false; count];
    let mut order = Vec::new();
    (0..count).filter(|&b| ends[b]).for_each(|b| backwards(&predecessors, b, &mut seen, &mut order));
    let mut doomed = seen.clone();
    (0..count).filter(|&b| stops[b]).for_each(|b| backwards(&predecessors, b, &mut doomed, &mut Vec::new()));
    for b in (0..count).rev() {
        if !doomed[b] {
            ends[b] = true;
            backwards(&predecessors, b, &mut doomed, &mut Vec::new());
        }
    }
    let root = count;
    predecessors[root] = (0..count as u32).filter(|&b| ends[b as usize]).collect();
    let mut seen = vec![false; count + 1];
    let mut order = Vec::new();
    backwards(&predecessors, root, &mut seen, &mut order);

    let mut number = vec![usize::MAX; count + 1];
    order.iter().enumerate().for_each(|(n, &b)| number[b] = n);
    const NONE: usize = usize::MAX;
    let mut tree = vec![NONE; count + 1];
    tree[root] = root;
    let mut steps = 0u64;
    let mut moved = true;
    while moved {
        moved = false;
        for &b in order.iter().rev().filter(|&&b| b != root) {
            let to_end = ends[b].then_some(root);
            let ways =
                blocks[b].successors.iter().map(|&s| s as usize).chain(to_end).filter(|&s| tree[s] != NONE);
            let meet = ways
                .fold(NONE, |a, s| if a == NONE { s } else { intersect(&tree, &number, a, s, &mut steps) });
            if steps > MOST_STEPS {
                return; // to meet only at the end is always right, if slow
            }
            if meet != NONE && tree[b] != meet {
                tree[b] = meet;
                moved = true;
            }
        }
    }
    for (b, block) in blocks.iter_mut().enumerate() {
        block.post_dominator = (tree[b] != NONE && tree[b] != root).then_some(tree[b] as u32);
    }
}

/// The nearest common ancestor in the tree so far.
fn intersect(tree: &[usize], number: &[usize], mut a: usize, mut b: usize, steps: &mut u64) -> usize {
    while a != b && *steps <= MOST_STEPS {
        *steps += 1;
        while number[a] < number[b] {
            a = tree[a];
        }
        while number[b] < number[a] {
            b = tree[b];
        }
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a body and checks where each branch (by the line's order) joins, as the text of the instruction there.
    fn check(body: &str, expected: &[Option<&str>]) {
        let source = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{\n.reg .pred %p<9>; .reg .b32 %r<9>;\n{body}\n}}\n"
        );
        let module = crate::check::compile("test", &source).unwrap();
        let flow = flow(&module.functions[0]);
        let instrs = &module.functions[0].body.as_ref().unwrap().instrs;
        let parts = |i: &Instr| {
            matches!(i.op, Opcode::Bra | Opcode::BrxIdx) && (i.guard.is_some() || i.op == Opcode::BrxIdx)
        };
        let joins: Vec<Option<String>> = (0..instrs.len())
            .filter(|&i| parts(&instrs[i]))
            .map(|i| flow.join(i as u32).map(|at| module.text_of(&instrs[at as usize])))
            .collect();
        let joins: Vec<Option<&str>> = joins.iter().map(Option::as_deref).collect();
        assert_eq!(joins, expected, "{body}");
    }

    #[test]
    fn if_and_else_meet_after_both() {
        check(
            "@%p1 bra A; mov.b32 %r1, 1; bra B; A: mov.b32 %r1, 2; B: mov.b32 %r1, 3; ret;",
            &[Some("mov.b32 %r1, 3;")],
        );
    }

    #[test]
    fn a_loop_meets_behind_it() {
        check("L: mov.b32 %r1, 1; @%p1 bra L; mov.b32 %r1, 3; ret;", &[Some("mov.b32 %r1, 3;")]);
    }

    #[test]
    fn a_break_meets_behind_the_loop_and_a_continue_at_its_end() {
        check(
            "L: @%p1 bra OUT; @%p2 bra NEXT; mov.b32 %r1, 1; NEXT: mov.b32 %r1, 2; @%p3 bra L; OUT: mov.b32 %r1, 3; ret;",
            &[Some("mov.b32 %r1, 3;"), Some("mov.b32 %r1, 2;"), Some("mov.b32 %r1, 3;")],
        );
    }

    #[test]
    fn threads_that_leave_are_not_waited_for() {
        check("@%p1 bra A; @%p2 exit; mov.b32 %r1, 1; A: mov.b32 %r1, 3; ret;", &[Some("mov.b32 %r1, 3;")]);
        check("@%p1 bra A; mov.b32 %r1, 1; trap; A: mov.b32 %r1, 3; ret;", &[Some("mov.b32 %r1, 3;")]);
        check("@%p1 bra A; mov.b32 %r1, 1; ret; A: mov.b32 %r1, 3; ret;", &[None]);
    }

    #[test]
    fn an_endless_loop_has_an_end_for_those_inside() {
        check("L: @%p1 bra A; mov.b32 %r1, 1; A: mov.b32 %r1, 3; bra L;", &[Some("mov.b32 %r1, 3;")]);
        check("L: bra L;", &[]);
    }

    #[test]
    fn a_table_meets_behind_all_its_targets() {
        check(
            "t: .branchtargets A, B, C; brx.idx %r1, t; A: mov.b32 %r1, 1; bra D; B: mov.b32 %r1, 2; bra D; C: mov.b32 %r1, 3; D: mov.b32 %r2, 4; ret;",
            &[Some("mov.b32 %r2, 4;")],
        );
    }

    #[test]
    fn a_label_behind_the_last_instruction_is_the_end() {
        check("@%p1 bra A; mov.b32 %r1, 1; A:", &[None]);
        check("", &[]);
    }
}
