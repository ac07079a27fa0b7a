//! Tests varve against stock Debian kernels: the program as users run it, with hosts as users have
//! them. Each test boots one guest; they run one after another, because each needs the whole
//! machine.
//!
//! A guest's kernel prints its warnings on its console; every test prints these lines, and fails
//! for those that it did not provoke.

mod administration;
mod bed;
mod change;
mod crash;
mod endless;
mod tree;
mod verification;
