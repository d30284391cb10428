//! What one function can cost to compile, told from its code without compiling it.
//!
//! Most of it grows with the function's size, but not all. The compiler keeps for each part of a function which values
//! are alive there, and hands over those that may differ where ways meet: values times branches. So a function of
//! sixteen kilobytes can be written that takes gigabytes; and one with loops two thousand deep takes minutes.

use wasmparser::{
    FuncToValidate, FuncValidatorAllocations, FunctionBody, Operator, Result, ValidatorResources,
};

/// What is counted of one function.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: usize,
    pub(super) locals: usize,
    /// Calls, and whatever else the compiler makes a call of: bulk memory, tables, the checks in each loop.
    pub(super) calls: usize,
    /// The deepest nesting of loops.
    pub(super) loops: usize,
    /// Locals and operands that there are, summed over all branches and blocks.
    pub(super) live: usize,
}

impl Body {
    /// Counts, and validates the code on the way: how many operands there are is known of valid code only.
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
        // Which of the constructs that are open are loops.
        let mut open = vec![false];
        let mut loops = 0_usize;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            // Before it takes its own operands, which are alive until then.
            let operands = usize::try_from(validator.operand_stack_height()).unwrap_or(usize::MAX);
            validator.op(offset, &operator)?;
            counted.calls += usize::from(is_call(&operator));
            let alive = counted.locals.saturating_add(operands);
            counted.live = counted.live.saturating_add(alive.saturating_mul(ways(&operator)));
            match operator {
                Operator::Loop { .. } => {
                    open.push(true);
                    loops += 1;
                    counted.loops = counted.loops.max(loops);
                }
                Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => open.push(false),
                Operator::End if open.pop() == Some(true) => loops = loops.saturating_sub(1),
                _ => {}
            }
        }
        *memory = validator.into_allocations();
        Ok(counted)
    }
}

/// The ways that begin here.
fn ways(operator: &Operator<'_>) -> usize {
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
