//! What volumes inherited, looked up and made their own after the start, and again for as long as
//! the archive does not answer.

use std::rc::Rc;
use std::time::Duration;

use crate::reactor::Local;
use crate::volume::Pool;

/// How long the archive is left alone after it did not answer; that doubles.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest time between two tries.
const WAIT_LAST: Duration = Duration::from_secs(10);

/// Looks up what every volume inherited, and hydrates those that are to be; then whatever the
/// archive did not give, as soon as it does. It does not end: a volume may come to need it at any
/// time.
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
