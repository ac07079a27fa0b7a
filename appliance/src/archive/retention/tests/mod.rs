//! The language, the calendar, and the plan against a model that knows no windows, only points.

mod language;
mod model;
mod worlds;
