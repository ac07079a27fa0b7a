//! Loads and hydrates what volumes inherited after the start, and again for as long as the archive
//! does not answer.

use std::rc::Rc;
use std::time::Duration;

use crate::reactor::Local;
use crate::volume::Pool;

/// The first delay after the archive did not answer; it doubles with each try.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest delay between two tries.
const WAIT_LAST: Duration = Duration::from_secs(10);

/// Loads what every volume inherited, and hydrates the volumes that are to be hydrated; then loads
/// whatever the archive did not return, as soon as it does. It never ends: a volume may need it at
/// any time.
pub(super) async fn keep_loading(pool: Rc<Pool>, local: Local) {
    let mut wait = WAIT_FIRST;
    loop {
        Rc::clone(&pool).load_inherited().await;
        Rc::clone(&pool).hydrate_all().await;
        while !pool.waits_for_archive() || pool.awaits_archive() {
            wait = WAIT_FIRST;
            local.sleep(WAIT_FIRST).await;
        }
        local.sleep(wait).await;
        wait = (wait * 2).min(WAIT_LAST);
    }
}
