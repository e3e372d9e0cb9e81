//! Questions that only a process itself can answer, asked by the puppet in one batch a process and one a thread.

/// What the processes of a tree said, in the order of the view.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// One for each process; zombies have empty answers.
    pub processes: Vec<ProcessAnswers>,
}

/// What one process said.
#[derive(Clone, Debug, Default)]
pub struct ProcessAnswers {
    /// One for each thread, the leader first.
    pub threads: Vec<ThreadAnswers>,
    /// brk(0): the end of the heap to the byte.
    pub brk: u64,
}

/// What one thread said.
#[derive(Clone, Debug, Default)]
pub struct ThreadAnswers {}

impl Answers {
    /// Asks every frozen process and thread.
    pub fn ask(_view: &crate::view::TreeView, _frozen: &crate::freeze::FrozenTree) -> Result<Self, crate::error::KindError> {
        Ok(Self::default())
    }
}
