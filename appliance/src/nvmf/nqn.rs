//! The names of varve's subsystems: one for each volume.

/// The start of every subsystem's NQN. The volume's name follows.
pub const PREFIX: &str = "nqn.2026-11.dev.varve:";

/// The NQN of a volume's subsystem.
pub fn of_volume(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The volume whose subsystem has this NQN. `None` when the NQN is not one of ours.
pub fn volume_of(nqn: &str) -> Option<&str> {
    nqn.strip_prefix(PREFIX)
}
