//! Tests of the language, the calendar, and the plan against a model that has no windows, only
//! points.

mod language;
mod model;
mod worlds;
