//! The harness that takes every victim through every mechanism, on the real kernel.
//!
//! - [`catalogue`]: the victims, as `victim list` tells them, and the gaps of `open.txt`;
//! - [`mechanism`]: the ways out and in, each a short sequence of `ghost` commands;
//! - [`case`]: one victim under one mechanism, inside a pid and mount namespace of its own;
//! - [`real`], [`real_wide`], [`real_case`]: real programs, and one of them under one mode;
//! - [`pace`]: in which order cases are played, and how many at once;
//! - [`run`]: running commands with a limit of time and everything they said kept;
//! - [`programs`]: where `ghost` and `victim` are.
//!
//! A failure's text holds all there is to know: what differed, every command with its status and stderr, and the state
//! of every process left in the namespace.
pub mod case;
pub mod catalogue;
mod keep;
pub mod mechanism;
mod nest;
pub mod pace;
pub mod programs;
pub mod real;
pub mod real_case;
mod real_play;
pub mod real_wide;
pub mod run;
pub mod sacred;
pub mod snapshot;
