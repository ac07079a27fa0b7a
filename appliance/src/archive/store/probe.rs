//! Checks whether a store does what it declares, when it is attached.

use uuid::Uuid;

use super::check::Check;
use super::{Capabilities, Name, Space, Store, StoreError, StoreErrorKind};

/// The result of a check.
#[derive(Debug)]
pub enum CheckOutcome {
    /// The store behaved as it must.
    Passed,
    /// The store misbehaved without an error: whatever depends on this check must not rely on it.
    Lied,
    /// The store returned an error.
    Failed(StoreError),
}

/// The results of a probe.
#[derive(Debug)]
pub struct ProbeReport {
    /// What the store declares, without what proved false.
    pub capabilities: Capabilities,
    /// The space of the store, if it is known.
    pub space: Option<Space>,
    /// The checks, in the order in which they were made; if the put fails, the others are omitted.
    pub checks: Vec<(Check, CheckOutcome)>,
}

impl ProbeReport {
    /// Whether everything passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|(_, outcome)| matches!(outcome, CheckOutcome::Passed))
    }

    /// The result of a check, if it was made.
    pub fn outcome(&self, check: Check) -> Option<&CheckOutcome> {
        self.checks.iter().find(|(made, _)| *made == check).map(|(_, outcome)| outcome)
    }
}

fn outcome(result: Result<bool, StoreError>) -> CheckOutcome {
    match result {
        Ok(true) => CheckOutcome::Passed,
        Ok(false) => CheckOutcome::Lied,
        Err(error) => CheckOutcome::Failed(error),
    }
}

/// Tests a store with one small object of the name `probe/UNIQUE`, which is deleted again.
pub fn probe(store: &dyn Store, unique: Uuid) -> ProbeReport {
    let mut report =
        ProbeReport { capabilities: store.capabilities(), space: store.space().ok(), checks: Vec::new() };
    // A UUID in this spelling is always a valid part of a name.
    let Ok(name) = Name::new(&format!("probe/{unique}")) else { return report };
    let content: Vec<u8> = (0..10_000_u32).flat_map(|index| (index as u16).to_le_bytes()).collect();
    let put = (|| {
        let mut put = store.put_start(&name, content.len() as u64)?;
        put.write(&content)?;
        let invisible = matches!(store.stat(&name), Err(error) if error.kind == StoreErrorKind::NotFound);
        put.commit()?;
        Ok(invisible)
    })();
    let mut overwritable = false;
    let mut note = |check, result| report.checks.push((check, outcome(result)));
    let invisible = match put {
        Ok(invisible) => invisible,
        Err(error) => {
            note(Check::Put, Err(error));
            return report;
        }
    };
    note(Check::Put, Ok(true));
    note(Check::InvisibleBeforeCommit, Ok(invisible));
    note(
        Check::ListAfterPut,
        store.list("probe/", None, super::PAGE_OBJECTS_MAX).map(|page| {
            page.objects.iter().any(|stat| stat.name == name && stat.len_bytes == content.len() as u64)
        }),
    );
    let mut back = Vec::new();
    note(Check::ReadBack, store.get(&name, &mut back).map(|_| back == content));
    let mut range = [0; 100];
    note(
        Check::RangedRead,
        store.get_range(&name, 7_777, &mut range).map(|()| content.get(7_777..7_877) == Some(&range[..])),
    );
    let overwrite = match store.put(&name, 4, &mut &b"lies"[..]) {
        Ok(_) => Ok(false),
        Err(error) if error.kind == StoreErrorKind::Exists => {
            store.stat(&name).map(|stat| stat.len_bytes == content.len() as u64)
        }
        Err(error) => Err(error),
    };
    if matches!(overwrite, Ok(false)) {
        store.distrust(Check::RefusesOverwrite);
        overwritable = true;
    }
    note(Check::RefusesOverwrite, overwrite);
    let delete = store
        .delete(&name)
        .map(|()| matches!(store.stat(&name), Err(error) if error.kind == StoreErrorKind::NotFound));
    note(Check::Delete, delete);
    report.capabilities = store.capabilities();
    report.capabilities.conditional_put &= !overwritable;
    report
}
