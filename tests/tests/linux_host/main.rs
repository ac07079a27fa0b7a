//! varve against stock Debian kernels: the program as users run it, hosts as users have them. Each test boots one guest; they run one after
//! another, because each wants the whole machine.
//!
//! A guest's kernel says on its console what it warns of; every test prints those lines, and fails for those that it did not provoke.

mod administration;
mod bed;
mod change;
mod crash;
mod endless;
mod tree;
mod verification;
