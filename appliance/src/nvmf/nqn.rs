//! The names of varve's subsystems: one for each volume.

/// What every subsystem's NQN starts with; the volume's name follows.
pub const PREFIX: &str = "nqn.2026-11.dev.varve:";

/// The NQN of a volume's subsystem.
pub fn of_volume(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The volume whose subsystem has this NQN, if it is one of ours.
pub fn volume_of(nqn: &str) -> Option<&str> {
    nqn.strip_prefix(PREFIX)
}
