//! Text for people, which every layer may use: sizes and times ([`units`]), tables and lists
//! ([`table`]).

pub mod table;
pub mod units;
