//! Turns `varve block history` and `who` into their calls.

use serde_json::{Value, json};

use super::block_args::BlockCommand;
use super::render::View;

/// Method, parameters and view of a command. A restore needs more than one call; see
/// [`blocks`](super::blocks).
pub(super) fn call(command: BlockCommand) -> (&'static str, Value, View) {
    match command {
        BlockCommand::History(args) => {
            let (block, blocks) = args.blocks.get();
            let params = json!({
                "volume": args.volume, "block": block, "blocks": blocks, "at": args.at, "from": args.from,
                "limit": args.limit,
            });
            ("block_history", params, View::BlockHistory)
        }
        BlockCommand::Who { volume, block, at } => {
            ("block_who", json!({"volume": volume, "block": block, "at": at}), View::BlockWho)
        }
        BlockCommand::Restore { .. } => unreachable!("it is no single call"),
    }
}
