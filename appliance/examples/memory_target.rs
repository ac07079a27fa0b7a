//! Serves volumes in memory over NVMe/TCP, to try hosts against the target alone and to measure it
//! without a log.
//!
//! ```text
//! memory_target ADDRESS NAME=SIZE_MIB...
//! ```
//! Ends when its standard input ends. A line `resize NAME MIB`, `delete NAME` or `create NAME` on
//! standard input changes a volume; a new one has 64 MiB.

use std::io::BufRead;
use std::rc::Rc;

use varve::dma::DmaPool;
use varve::nvmf::server::memory::{Behavior, MemoryStorage};
use varve::nvmf::server::{Storage, Target, TargetConfig};
use varve::reactor::{Reactor, ReactorConfig};

/// DMA memory for write data, in bytes.
const STAGING_BYTES: usize = 128 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_max_level(if std::env::var_os("VERBOSE").is_some() {
            tracing::Level::DEBUG
        } else {
            tracing::Level::INFO
        })
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("usage: memory_target ADDRESS NAME=SIZE_MIB...")?;
    let mut reactor: Reactor<Rc<MemoryStorage>> = Reactor::new(ReactorConfig::default())?;
    let storage = MemoryStorage::new();
    storage.set_behavior(Behavior { volatile_cache: true, ..Behavior::default() });
    for argument in arguments {
        let (name, size_mib) = argument.split_once('=').ok_or("a volume is NAME=SIZE_MIB")?;
        storage.create(name, size_mib.parse::<u64>()? << 20, false);
    }
    let target = Target::new(
        reactor.local(),
        Rc::<MemoryStorage>::clone(&storage),
        DmaPool::new(STAGING_BYTES),
        TargetConfig::default(),
    );
    println!("{}", target.listen(address.parse()?)?);
    let (receive, poll, send) = (target.clone(), Rc::clone(&storage), target.clone());
    reactor.local().add_poller(move || receive.poll_receive());
    reactor.local().add_poller(move || poll.poll());
    reactor.local().add_poller(move || send.poll_send());
    let handle = reactor.handle();
    let commands = std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            // A full mailbox drops the command. That is acceptable in a tool.
            let _ = handle.send(move |storage| change(storage, &line));
        }
        handle.stop();
    });
    reactor.run(&storage);
    eprintln!("{:?}", target.stats());
    target.shutdown();
    drop(commands);
    Ok(())
}

fn change(storage: &MemoryStorage, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let volume = words.get(1).and_then(|name| storage.find(name));
    match (words.as_slice(), volume) {
        (["resize", _, mib], Some(volume)) => {
            if let Ok(mib) = mib.parse::<u64>() {
                storage.resize(volume.id, mib << 20);
            }
        }
        (["delete", _], Some(volume)) => storage.delete(volume.id),
        (["create", name], None) => {
            storage.create(name, 64 << 20, false);
        }
        _ => eprintln!("not understood: {line}"),
    }
}
