//! The identity of the log: its pool, format, geometry and session.
//!
//! **Invariants.** Only the geometry changes, and only in two ways: another length of the working
//! set, and more slots. The working set leaves at least one slot free.

use uuid::Uuid;

use crate::log::geometry::Geometry;

/// The identity of the log. See the module's documentation.
pub(in crate::log) struct LogIdentity {
    version: u32,
    pool: Uuid,
    created_ns: u64,
    epoch: u32,
    geometry: Geometry,
}

impl LogIdentity {
    /// The identity that a start found or made.
    pub(in crate::log) fn new(
        version: u32,
        pool: Uuid,
        created_ns: u64,
        epoch: u32,
        geometry: Geometry,
    ) -> Self {
        let identity = LogIdentity { version, pool, created_ns, epoch, geometry };
        identity.check();
        identity
    }

    /// The format version of the pool.
    pub(in crate::log) fn version(&self) -> u32 {
        self.version
    }

    /// The UUID of the pool.
    pub(in crate::log) fn pool(&self) -> Uuid {
        self.pool
    }

    /// When the pool was created, ns since the Unix epoch.
    pub(in crate::log) fn created_ns(&self) -> u64 {
        self.created_ns
    }

    /// The epoch of new records.
    pub(in crate::log) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The geometry of the device.
    pub(in crate::log) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Sets the length of the working set, which applies from the next segment on.
    pub(in crate::log) fn set_working_set(&mut self, segments: u64) {
        self.geometry = self.geometry.with_working_set(segments);
        self.check();
    }

    /// Adds slots of the device, up to `slots` in total.
    pub(in crate::log) fn grow_slots(&mut self, slots: u64) {
        self.geometry = self.geometry.with_slots(slots.max(self.geometry.slots));
        self.check();
    }

    fn check(&self) {
        let Geometry { slots, working_set, .. } = self.geometry;
        assert!(working_set < slots, "{working_set} segments of {slots} slots leave no slot over");
    }
}
