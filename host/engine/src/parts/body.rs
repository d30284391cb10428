//! Estimates the cost of compiling one function from its code, without compiling it.
//!
//! Most of the cost grows with the function's size, but not all. The compiler records for each part of a function
//! which values are alive there, and where paths join it passes on those that can differ: values times branches. So a
//! function of a few kilobytes can take gigabytes, or minutes.

use std::collections::BTreeSet;

use wasmparser::{
    FuncToValidate, FuncValidatorAllocations, FunctionBody, Operator, Result, ValidatorResources,
};

/// The counts of one function.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: usize,
    pub(super) locals: usize,
    /// Calls, and operations that the compiler turns into calls: bulk memory, tables, the checks in each loop.
    pub(super) calls: usize,
    /// The deepest nesting of loops.
    pub(super) loops: usize,
    /// Live locals and operands, summed over all branches and blocks.
    pub(super) live: usize,
    /// Locals that can differ where paths join, summed over all joins and the paths to each.
    pub(super) joins: usize,
}

/// A `block`, `loop`, `if` or the function itself, while it is open.
#[derive(Default)]
struct Frame {
    is_loop: bool,
    /// Locals that are assigned in it.
    assigned: BTreeSet<u32>,
    /// Branches to it.
    branches: usize,
}

impl Frame {
    /// The values that are passed on where the frame ends or repeats: by each branch, and by the paths into it and
    /// out of it.
    fn joins(&self) -> usize {
        self.assigned.len().saturating_mul(self.branches.saturating_add(2))
    }
}

impl Body {
    /// Counts and validates the code: the number of operands is only known for valid code.
    pub(super) fn count(
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
        memory: &mut FuncValidatorAllocations,
    ) -> Result<Self> {
        let mut counted = Self { bytes: body.range().len(), ..Self::default() };
        let mut validator = function.into_validator(std::mem::take(memory));
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader)?;
        counted.locals = usize::try_from(validator.len_locals()).unwrap_or(usize::MAX);
        let mut open = vec![Frame::default()];
        let mut loops = 0_usize;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            // Before the operator takes its own operands, which are alive until then.
            let operands = usize::try_from(validator.operand_stack_height()).unwrap_or(usize::MAX);
            validator.op(offset, &operator)?;
            counted.calls += usize::from(is_call(&operator));
            let alive = counted.locals.saturating_add(operands);
            counted.live = counted.live.saturating_add(alive.saturating_mul(paths(&operator)));
            match operator {
                Operator::Loop { .. } => {
                    open.push(Frame { is_loop: true, ..Frame::default() });
                    loops += 1;
                    counted.loops = counted.loops.max(loops);
                }
                Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                    open.push(Frame::default());
                }
                Operator::End => {
                    let Some(frame) = open.pop() else { continue };
                    loops = loops.saturating_sub(usize::from(frame.is_loop));
                    counted.joins = counted.joins.saturating_add(frame.joins());
                    if let Some(outer) = open.last_mut() {
                        merge(&mut outer.assigned, frame.assigned);
                    }
                }
                Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                    if let Some(frame) = open.last_mut() {
                        frame.assigned.insert(local_index);
                    }
                }
                Operator::Br { relative_depth }
                | Operator::BrIf { relative_depth }
                | Operator::BrOnNull { relative_depth }
                | Operator::BrOnNonNull { relative_depth } => branch(&mut open, relative_depth),
                Operator::BrTable { targets } => {
                    branch(&mut open, targets.default());
                    for target in targets.targets() {
                        branch(&mut open, target?);
                    }
                }
                _ => {}
            }
        }
        *memory = validator.into_allocations();
        Ok(counted)
    }
}

/// The smaller set goes into the larger, so that deep nesting takes no longer than flat code.
fn merge(outer: &mut BTreeSet<u32>, mut inner: BTreeSet<u32>) {
    if inner.len() > outer.len() {
        std::mem::swap(outer, &mut inner);
    }
    outer.extend(inner);
}

fn branch(open: &mut [Frame], depth: u32) {
    let frame = usize::try_from(depth).ok().and_then(|depth| {
        let at = open.len().checked_sub(depth.checked_add(1)?)?;
        open.get_mut(at)
    });
    if let Some(frame) = frame {
        frame.branches = frame.branches.saturating_add(1);
    }
}

/// The number of paths that begin here.
fn paths(operator: &Operator<'_>) -> usize {
    match operator {
        Operator::Block { .. }
        | Operator::Loop { .. }
        | Operator::If { .. }
        | Operator::Else
        | Operator::TryTable { .. }
        | Operator::Br { .. }
        | Operator::BrIf { .. }
        | Operator::BrOnNull { .. }
        | Operator::BrOnNonNull { .. } => 1,
        Operator::BrTable { targets } => {
            usize::try_from(targets.len()).unwrap_or(usize::MAX).saturating_add(1)
        }
        _ => 0,
    }
}

fn is_call(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. }
            | Operator::Loop { .. }
            | Operator::MemoryGrow { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryInit { .. }
            | Operator::DataDrop { .. }
            | Operator::TableGet { .. }
            | Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableCopy { .. }
            | Operator::TableFill { .. }
            | Operator::TableInit { .. }
            | Operator::ElemDrop { .. }
            | Operator::RefFunc { .. }
    )
}
