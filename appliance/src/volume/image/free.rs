//! Frees an index in pieces, because a large one has many nodes.

use crate::reactor::yield_now;
use crate::volume::image::index::Index;

/// How many leaves are freed in one turn of the reactor.
const TURN_LEAVES: usize = 64;

/// Frees an index in pieces. What it shares with others stays with them.
pub(in crate::volume) async fn free(mut index: Index) {
    while !index.drop_some(TURN_LEAVES) {
        yield_now().await;
    }
}
