//! Tests of the threads: one reply for each request, restores that do not wait, and a shutdown that
//! leaves nothing.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::*;
use crate::bdev::MemoryDisk;

/// Far longer than any step here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// A waker and the receiver of its wake-ups.
fn waker() -> (Arc<dyn Fn() + Send + Sync>, Receiver<()>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let wake = move || {
        // The test may have ended.
        let _ = sender.lock().unwrap().send(());
    };
    (Arc::new(wake), receiver)
}

fn start(
    store: Arc<dyn Store>,
    source: impl BlockSource + Send + 'static,
    change: impl FnOnce(&mut ThreadedOptions),
) -> (ThreadedArchive, Receiver<()>) {
    let (waker, woken) = waker();
    let worker = options(VerifyPolicy::Digest);
    let mut options = ThreadedOptions { worker, waker, ..ThreadedOptions::default() };
    change(&mut options);
    let factory: SourceFactory = Box::new(move || Ok(Box::new(source) as Box<dyn BlockSource>));
    (ThreadedArchive::start(store, factory, options).unwrap(), woken)
}

/// Waits for replies using the waker alone.
fn replies(archive: &mut ThreadedArchive, woken: &Receiver<()>, count: usize) -> Vec<ArchiveReply> {
    let mut replies = Vec::new();
    while replies.len() < count {
        if archive.poll(&mut replies) == 0 {
            woken.recv_timeout(PATIENCE).expect("a reply wakes");
        }
    }
    assert_eq!(replies.len(), count);
    replies
}

#[test]
fn everything_goes_through_and_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let stretches: Vec<_> = (1..6).map(|sequence| stretch(sequence, 256, 0, 256)).collect();
    let on_device = stretches.clone();
    let (waker, woken) = waker();
    // A device that is not `Send` is created on the thread that uses it.
    let factory: SourceFactory = Box::new(move || {
        let disk = MemoryDisk::new(2000);
        for stretch in &on_device {
            disk.write_raw(stretch.job.id.from_lsn.0 * BLOCK_BYTES as u64, &stretch.content);
        }
        Ok(Box::new(BdevSource::new(Box::new(disk.open("memory")), READS_IN_FLIGHT_DEFAULT)))
    });
    let options = ThreadedOptions { waker, core: Some(0), ..ThreadedOptions::default() };
    let mut archive = ThreadedArchive::start(directory(root.path()), factory, options).unwrap();
    for stretch in &stretches {
        let device_block = stretch.job.id.from_lsn.0;
        archive.submit(ArchiveRequest::Archive(ArchiveJob { device_block, ..stretch.job.clone() })).unwrap();
    }
    let mut tokens = Vec::new();
    for reply in replies(&mut archive, &woken, 5) {
        let ArchiveReply::Archived { token, result } = reply else { panic!() };
        tokens.push(token);
        assert_eq!(result.unwrap().bad_blocks, 0);
    }
    assert_eq!(tokens, [101, 102, 103, 104, 105], "jobs keep their order");
    for (index, stretch) in stretches.iter().enumerate() {
        assert_stored(&**archive.store(), stretch);
        let (id, token) = (stretch.job.id, index as u64);
        archive.submit(ArchiveRequest::Entries { token, id }).unwrap();
        for block in 0..20 {
            let lsn = id.from_lsn.plus(block * 12);
            archive.submit(ArchiveRequest::Blocks { token: token << 32 | lsn.0, id, lsn }).unwrap();
        }
    }
    for reply in replies(&mut archive, &woken, 5 * 21) {
        match reply {
            ArchiveReply::Entries { token, result } => {
                assert_eq!(result.unwrap().units, *stretches[token as usize].job.units);
            }
            ArchiveReply::Blocks { token, result } => {
                let (stretch, lsn) = (&stretches[(token >> 32) as usize], Lsn(token & 0xffff_ffff));
                let blocks = result.unwrap();
                let within = (lsn.0 - blocks.first_lsn.0) as usize * BLOCK_BYTES;
                assert!(blocks.bytes[within..][..BLOCK_BYTES] == *stretch.block(lsn));
            }
            _ => panic!("nothing else was asked"),
        }
    }
    let ids: Vec<_> = stretches.iter().map(|stretch| stretch.job.id).collect();
    archive.submit(ArchiveRequest::Delete { token: 9, ids }).unwrap();
    let reply = replies(&mut archive, &woken, 1).pop();
    assert!(matches!(reply, Some(ArchiveReply::Deleted { token: 9, result: Ok(5) })), "{reply:?}");
    assert_empty(&**archive.store());
    let stats = archive.stats();
    assert_eq!((stats.objects, stats.content_bytes, stats.failures), (5, 5 << 20, 0));
    assert_eq!((stats.fetches, stats.fetch_failures, stats.removed), (5 * 21 + 1, 0, 5));
    assert!(stats.object_bytes > 0 && stats.fetched_bytes >= 100 * u64::from(FRAME_BYTES_MIN));
    assert_eq!(archive.counters().snapshot(), stats);
}

/// A source that reports when it is called and then waits for permission to continue.
fn gated(stretch: &Stretch) -> (impl BlockSource + Send + use<>, Receiver<()>, Sender<()>) {
    let (asked, is_asked) = channel();
    let (go, may_go) = channel();
    let content = stretch.content.clone();
    let source = FnSource(move |take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>| {
        asked.send(()).unwrap();
        may_go.recv_timeout(PATIENCE).map_err(|error| SourceError::Device(error.to_string()))?;
        Ok(take(&content)?)
    });
    (source, is_asked, go)
}

#[test]
fn a_restore_does_not_wait_for_the_archiving() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let (old, new) = (stretch(1, 256, 0, 256), stretch(2, 256, 0, 256));
    run(&old, &mut old.source(), &*store, &options(VerifyPolicy::Stat)).unwrap();
    let (source, asked, go) = gated(&new);
    let (mut archive, woken) = start(store, source, |_| {});
    archive.submit(ArchiveRequest::Archive(new.job.clone())).unwrap();
    asked.recv_timeout(PATIENCE).unwrap();
    archive.submit(ArchiveRequest::Entries { token: 1, id: old.job.id }).unwrap();
    let reply = replies(&mut archive, &woken, 1).pop();
    assert!(matches!(reply, Some(ArchiveReply::Entries { token: 1, result: Ok(_) })), "{reply:?}");
    go.send(()).unwrap();
    let reply = replies(&mut archive, &woken, 1).pop();
    assert!(matches!(reply, Some(ArchiveReply::Archived { token: 102, result: Ok(_) })), "{reply:?}");
}

#[test]
fn how_objects_are_verified_can_be_changed_while_it_runs() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let content = stretch(0, 256, 0, 256).content;
    let source = SliceSource { content, piece_blocks: 50 };
    let (mut archive, woken) = start(Arc::<FaultyStore>::clone(&store), source, |_| {});
    assert_eq!(archive.verify(), VerifyPolicy::Digest);
    let mut reads = Vec::new();
    for (sequence, verify) in
        [VerifyPolicy::Digest, VerifyPolicy::Tail, VerifyPolicy::Digest].into_iter().enumerate()
    {
        archive.set_verify(verify);
        assert_eq!(archive.verify(), verify);
        let mut job = stretch(0, 256, 0, 256).job;
        job.id.epoch = 3 + sequence as u32;
        let before = store.calls(Call::Get);
        archive.submit(ArchiveRequest::Archive(job)).unwrap();
        let reply = replies(&mut archive, &woken, 1).remove(0);
        assert!(matches!(reply, ArchiveReply::Archived { result: Ok(_), .. }), "{reply:?}");
        reads.push(store.calls(Call::Get) - before);
    }
    // The tail, the front, and 16 frames; or the tail alone.
    assert_eq!(reads, [18, 1, 18]);
}

#[test]
fn what_is_too_much_comes_back_and_is_taken_later() {
    let root = tempfile::tempdir().unwrap();
    let stretch = stretch(2, 256, 0, 256);
    let (source, _asked, go) = gated(&stretch);
    let (mut archive, woken) = start(directory(root.path()), source, |options| {
        options.jobs_max = 2;
        options.fetches_max = 3;
    });
    archive.submit(ArchiveRequest::Archive(stretch.job.clone())).unwrap();
    archive.submit(ArchiveRequest::Archive(stretch.job.clone())).unwrap();
    let Err(ArchiveRequest::Archive(job)) = archive.submit(ArchiveRequest::Archive(stretch.job.clone()))
    else {
        panic!()
    };
    assert_eq!(job.token, stretch.job.token);
    let id = stretch.job.id;
    for token in 0..3 {
        archive.submit(ArchiveRequest::Entries { token, id }).unwrap();
    }
    // However fast the readers are: replies that were not polled yet count too.
    let Err(ArchiveRequest::Blocks { token: 3, lsn, .. }) =
        archive.submit(ArchiveRequest::Blocks { token: 3, id, lsn: id.from_lsn })
    else {
        panic!()
    };
    assert_eq!(lsn, id.from_lsn);
    replies(&mut archive, &woken, 3);
    archive.submit(ArchiveRequest::Entries { token: 4, id }).unwrap();
    go.send(()).unwrap();
    replies(&mut archive, &woken, 3);
    archive.submit(ArchiveRequest::Archive(job)).unwrap();
    // The second and the third job find the object of the first and do not use the source.
    let last = replies(&mut archive, &woken, 1).pop();
    assert!(matches!(last, Some(ArchiveReply::Archived { result: Ok(_), .. })), "{last:?}");
    assert_eq!(archive.stats().objects, 3);
}

#[test]
fn dropping_the_service_ends_a_job_between_frames_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let stretch = stretch(2, 2048, 0, 2048);
    let flag = Arc::new(OnceLock::<StopFlag>::new());
    let (asked, is_asked) = channel();
    let (content, seen) = (stretch.content.clone(), Arc::clone(&flag));
    let source = FnSource(move |take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>| {
        take(&content[..FRAME_BYTES_MIN as usize])?;
        asked.send(()).unwrap();
        // Continues after the drop has begun.
        while !seen.get().is_some_and(StopFlag::is_set) {
            std::thread::yield_now();
        }
        take(&content[FRAME_BYTES_MIN as usize..])?;
        panic!("the taker must refuse");
    });
    let (mut archive, _woken) = start(Arc::<FaultyStore>::clone(&store), source, |_| {});
    flag.set(archive.stop.clone()).unwrap();
    let counters = archive.counters();
    archive.submit(ArchiveRequest::Archive(stretch.job.clone())).unwrap();
    archive.submit(ArchiveRequest::Archive(stretch.job.clone())).unwrap();
    is_asked.recv_timeout(PATIENCE).unwrap();
    drop(archive);
    assert_eq!(Arc::strong_count(&store), 1, "no thread is left");
    assert_empty(&*store);
    assert_eq!(store.calls(Call::Write), 3 + 1, "the front and one frame");
    assert_eq!(store.calls(Call::Commit), 0);
    assert_eq!(counters.snapshot().failures, 1, "the second job was not begun");
    // Idle threads end too, parked or spinning.
    for spin in [Duration::ZERO, PATIENCE] {
        drop(start(Arc::<FaultyStore>::clone(&store), no_source(), |options| options.spin = spin));
        assert_eq!(Arc::strong_count(&store), 1);
    }
}

#[test]
fn a_panic_in_a_source_is_an_error_and_the_archivist_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let stretch = stretch(2, 256, 0, 256);
    let mut source = stretch.source();
    let mut count = 0;
    let panics_twice = FnSource(move |take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>| {
        count += 1;
        take(&source.content[..BLOCK_BYTES])?;
        if count <= 2 {
            // Without the panic message in the test's output.
            std::panic::resume_unwind(Box::new("the source is out of its mind".to_owned()));
        }
        source.content.drain(..BLOCK_BYTES);
        source.read(DEVICE_BLOCK, 255, take)
    });
    let (mut archive, woken) = start(directory(root.path()), panics_twice, |_| {});
    for _ in 0..3 {
        archive.submit(ArchiveRequest::Archive(stretch.job.clone())).unwrap();
    }
    let mut results = replies(&mut archive, &woken, 3).into_iter().map(|reply| {
        let ArchiveReply::Archived { token: 102, result } = reply else { panic!() };
        result
    });
    for _ in 0..2 {
        let error = results.next().unwrap().unwrap_err();
        assert!(is_final(&error) && error.to_string().contains("out of its mind"), "{error}");
    }
    results.next().unwrap().unwrap();
    assert_stored(&**archive.store(), &stretch);
    let stats = archive.stats();
    assert_eq!((stats.objects, stats.failures), (1, 2));
}

#[test]
fn a_source_that_does_not_open_ends_the_start() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let start = |factory| ThreadedArchive::start(Arc::clone(&store), factory, ThreadedOptions::default());
    let error = start(Box::new(|| Err("no such device".to_owned()))).err().unwrap();
    assert!(matches!(&error, StartError::Source(reason) if reason == "no such device"), "{error}");
    let error = start(Box::new(|| std::panic::resume_unwind(Box::new("oh")))).err().unwrap();
    assert!(matches!(&error, StartError::Source(reason) if reason.contains("panicked")), "{error}");
    let mut bad_level = ThreadedOptions::default();
    bad_level.worker.level = 1000;
    let factory: SourceFactory = Box::new(|| Ok(Box::new(no_source())));
    let error = ThreadedArchive::start(Arc::clone(&store), factory, bad_level).err().unwrap();
    assert!(matches!(error, StartError::Compression(_)), "{error}");
    assert_eq!(Arc::strong_count(&store), 1, "no thread is left");
}

/// Requests one by one and in bursts, so that threads go to sleep and are woken at every point.
#[test]
fn no_request_is_left_lying() {
    let root = tempfile::tempdir().unwrap();
    let (waker, woken) = waker();
    let mut options = ThreadedOptions { waker, readers: 3, spin: Duration::ZERO, ..Default::default() };
    options.worker.verify = VerifyPolicy::Stat;
    let factory: SourceFactory = Box::new(|| Ok(Box::new(no_source())));
    let mut archive = ThreadedArchive::start(directory(root.path()), factory, options).unwrap();
    let stretch = stretch(2, 256, 0, 16);
    let id = stretch.job.id;
    let mut state = 3;
    for _ in 0..3000 {
        let burst = 1 + noise(&mut state) as usize % 5;
        for index in 0..burst {
            if index == 3 {
                archive.submit(ArchiveRequest::Archive(stretch.job.clone())).unwrap();
            } else {
                archive.submit(ArchiveRequest::Entries { token: 0, id }).unwrap();
            }
        }
        replies(&mut archive, &woken, burst);
    }
    let stats = archive.stats();
    assert_eq!(stats.fetches, stats.fetch_failures);
    assert!(stats.failures > 100 && stats.objects == 0);
}
