//! Whole-system tests of varve: guests with real kernels, the program as a process, models, soaks.

pub mod appliance;
pub mod guest;
pub mod sim;
pub mod soak;
pub mod tape;
