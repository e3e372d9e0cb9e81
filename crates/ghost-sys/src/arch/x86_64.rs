//! x86-64: registers, the executor's code, facts of the vDSO.
