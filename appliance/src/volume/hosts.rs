//! Refuses changes that replace what connected hosts see, at the moment of the change.
//!
//! The pool does not know who is connected, so whoever wants a change passes a [`HostGuard`]. It is
//! asked before the work begins, which may take long, and once more in the turn in which the change
//! of the catalog is appended. A host that connects later has read nothing of the old state.

use crate::volume::error::VolumeError;

/// Lists the hosts that are connected to the volume of a name.
type ListHosts = Box<dyn Fn(&str) -> Vec<String>>;

/// Says whether a change may replace what hosts see of a volume. See the module's documentation.
pub struct HostGuard(Option<ListHosts>);

impl HostGuard {
    /// Refuses changes of volumes for which `hosts` lists a host.
    pub fn new(hosts: impl Fn(&str) -> Vec<String> + 'static) -> Self {
        HostGuard(Some(Box::new(hosts)))
    }

    /// Refuses nothing: the operator insists, or nobody can be connected.
    pub fn none() -> Self {
        HostGuard(None)
    }

    /// Refuses a change of a volume that a host is connected to. `what` says what was asked for,
    /// like `delete it`.
    ///
    /// # Errors
    /// [`VolumeError::InUse`].
    pub fn check(&self, volume: &str, what: &'static str) -> Result<(), VolumeError> {
        let Some(list) = &self.0 else { return Ok(()) };
        let mut hosts = list(volume);
        if hosts.is_empty() {
            return Ok(());
        }
        hosts.sort();
        hosts.dedup();
        Err(VolumeError::InUse { name: volume.to_owned(), hosts, what })
    }

    /// The same for several volumes.
    pub(in crate::volume) fn check_all<'a>(
        &self,
        volumes: impl IntoIterator<Item = &'a String>,
        what: &'static str,
    ) -> Result<(), VolumeError> {
        volumes.into_iter().try_for_each(|volume| self.check(volume, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_is_named_once() {
        let guard = HostGuard::new(|volume| match volume {
            "used" => ["b", "a", "b", ""].map(str::to_owned).into(),
            _ => Vec::new(),
        });
        assert!(guard.check("free", "move it").is_ok() && HostGuard::none().check("used", "move it").is_ok());
        let names = ["free".to_owned(), "used".to_owned()];
        let refused = guard.check_all(&names, "move it").expect_err("a host is connected").to_string();
        assert_eq!(
            refused,
            "the volume 'used' is in use by a host without a name, a, b; disconnect them first (`nvme disconnect`), or move it anyway with --force (\"force\": true)"
        );
    }
}
