//! A simulated world for the log and the volumes: a device that fails in every way a device can, a
//! clock that stands still or steps, a model of the correct state, and a workload that drives both.
//! Everything derives from a seed.

pub mod anchors;
pub mod campaign;
pub mod checks;
pub mod commands;
pub mod crashes;
pub mod damage;
pub mod disk;
pub mod endless;
pub mod expiry;
pub mod faults;
pub mod fixture;
pub mod going_back;
pub mod hosts;
pub mod hydration;
pub mod kept;
pub mod model;
pub mod operations;
pub mod owners;
pub mod past;
pub mod rng;
pub mod shortage;
pub mod starts;
pub mod store;
pub mod trouble;
pub mod walks;
pub mod workload;
pub mod world;
