//! Whole-system tests of varve: guests with real kernels, the program as a process (also under
//! injected faults), models, soaks.

pub mod appliance;
pub mod canary;
pub mod connection_fuzz;
pub mod faults;
pub mod guest;
pub mod sim;
pub mod soak;
pub mod stock_client;
pub mod tape;
