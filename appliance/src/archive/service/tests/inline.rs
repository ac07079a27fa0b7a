//! Tests of the inline service: one request in each poll, in an order that a seed decides.

use super::*;

fn requests(stretches: &[Stretch]) -> Vec<ArchiveRequest> {
    let mut requests: Vec<_> =
        stretches.iter().map(|stretch| ArchiveRequest::Archive(stretch.job.clone())).collect();
    for (index, stretch) in stretches.iter().enumerate() {
        let id = stretch.job.id;
        requests.push(ArchiveRequest::Entries { token: 200 + index as u64, id });
        requests.push(ArchiveRequest::Blocks { token: 300 + index as u64, id, lsn: id.from_lsn.plus(9) });
    }
    requests
}

fn token(reply: &ArchiveReply) -> u64 {
    match reply {
        ArchiveReply::Archived { token, .. }
        | ArchiveReply::Entries { token, .. }
        | ArchiveReply::Blocks { token, .. }
        | ArchiveReply::AnchorStored { token, .. }
        | ArchiveReply::Anchor { token, .. }
        | ArchiveReply::Deleted { token, .. } => *token,
    }
}

/// Returns the stretch of each job, found by the job's device block.
struct Many(Vec<Stretch>);

impl BlockSource for Many {
    fn read(
        &mut self,
        block: u64,
        _len_blocks: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError> {
        Ok(take(&self.0[block as usize].content)?)
    }
}

fn stretches() -> Vec<Stretch> {
    (0..3)
        .map(|index| {
            let mut stretch = stretch(index, 256, 0, 64);
            stretch.job.device_block = index;
            stretch
        })
        .collect()
}

fn service(store: Arc<dyn Store>, options: InlineOptions) -> InlineArchive {
    InlineArchive::new(store, Box::new(Many(stretches())), options).unwrap()
}

/// Polls until nothing waits; each poll executes one request.
fn drain(service: &mut InlineArchive) -> Vec<ArchiveReply> {
    let mut replies = Vec::new();
    while service.waiting() > 0 {
        assert_eq!(service.poll(&mut replies), 1);
    }
    assert_eq!(service.poll(&mut replies), 0);
    replies
}

#[test]
fn fetches_overtake_jobs_and_each_kind_keeps_its_order() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = service(directory(root.path()), InlineOptions::default());
    for request in requests(&stretches()) {
        archive.submit(request).unwrap();
    }
    let replies = drain(&mut archive);
    let tokens: Vec<_> = replies.iter().map(token).collect();
    assert_eq!(tokens, [200, 300, 201, 301, 202, 302, 100, 101, 102]);
    assert!(replies.iter().all(|reply| match reply {
        ArchiveReply::Archived { result, .. } => result.is_ok(),
        ArchiveReply::Entries { result, .. } => is_final(result.as_ref().unwrap_err()),
        ArchiveReply::Blocks { result, .. } => is_final(result.as_ref().unwrap_err()),
        ArchiveReply::Deleted { .. } | ArchiveReply::AnchorStored { .. } | ArchiveReply::Anchor { .. } => {
            false
        }
    }));
    let stats = archive.stats();
    assert_eq!((stats.objects, stats.content_bytes, stats.failures), (3, 3 * 64 * 4096, 0));
    assert_eq!((stats.fetches, stats.fetch_failures, stats.fetched_bytes), (6, 6, 0));
    assert_eq!(stats.object_bytes, archive.store().space().unwrap().used_bytes);

    let ids = stretches().iter().map(|stretch| stretch.job.id).collect();
    for request in requests(&stretches()).split_off(3) {
        archive.submit(request).unwrap();
    }
    archive.submit(ArchiveRequest::Delete { token: 400, ids }).unwrap();
    for reply in drain(&mut archive) {
        let index = (token(&reply) % 100) as usize;
        let stretch = &stretches()[index];
        match reply {
            ArchiveReply::Entries { result, .. } => assert_eq!(result.unwrap().units, *stretch.job.units),
            ArchiveReply::Blocks { result, .. } => assert!(result.unwrap().bytes == stretch.content),
            ArchiveReply::Deleted { result, .. } => assert_eq!(result.unwrap(), 3),
            ArchiveReply::AnchorStored { .. }
            | ArchiveReply::Anchor { .. }
            | ArchiveReply::Archived { .. } => {
                panic!("no job was given")
            }
        }
    }
    let stats = archive.counters().snapshot();
    assert_eq!((stats.fetched_bytes, stats.removed), (3 * 64 * 4096, 3));
    assert_empty(&**archive.store());
}

#[test]
fn a_seed_decides_what_comes_next() {
    let order = |seed: u64, readers: usize| {
        let root = tempfile::tempdir().unwrap();
        let mut state = seed;
        let choose = Box::new(move |_| noise(&mut state) as usize);
        let mut archive =
            service(directory(root.path()), InlineOptions { readers, choose, ..InlineOptions::default() });
        for request in requests(&stretches()) {
            archive.submit(request).unwrap();
        }
        drain(&mut archive).iter().map(token).collect::<Vec<_>>()
    };
    let orders: std::collections::BTreeSet<_> = (0..20).map(|seed| order(seed, 1)).collect();
    assert!(orders.len() > 10, "{}", orders.len());
    for order in &orders {
        let jobs: Vec<_> = order.iter().filter(|token| **token < 200).collect();
        let fetches: Vec<_> = order.iter().filter(|token| **token >= 200).collect();
        assert_eq!((jobs, fetches), (vec![&100, &101, &102], vec![&200, &300, &201, &301, &202, &302]));
    }
    assert_eq!(order(5, 2), order(5, 2));
    let fetches_swap = |seed| {
        let fetches: Vec<_> = order(seed, 2).into_iter().filter(|token| *token >= 200).collect();
        fetches != [200, 300, 201, 301, 202, 302]
    };
    assert!((0..20).any(fetches_swap), "two readers may overtake each other");
}

#[test]
fn how_objects_are_verified_can_be_changed_between_jobs() {
    use VerifyPolicy::{Digest, Tail};
    for (verify, is_found) in [(Digest, true), (Tail, false)] {
        let root = tempfile::tempdir().unwrap();
        let store = faulty(root.path());
        let mut service = service(Arc::<FaultyStore>::clone(&store), InlineOptions::default());
        service.set_verify(verify);
        assert_eq!(service.verify(), verify);
        // A byte of the header.
        store.add(Call::Write, When::Nth(2), Fault::WrongByte);
        service.submit(requests(&stretches()).remove(0)).unwrap();
        let reply = drain(&mut service).remove(0);
        let ArchiveReply::Archived { result, .. } = reply else { panic!("{reply:?}") };
        assert_eq!(result.is_err(), is_found, "{verify}");
    }
}

#[test]
fn what_is_too_much_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let options = InlineOptions { jobs_max: 2, fetches_max: 1, ..InlineOptions::default() };
    let mut archive = service(directory(root.path()), options);
    let [first, second, third] = [0, 1, 2].map(|index| stretches()[index].job.clone());
    archive.submit(ArchiveRequest::Archive(first)).unwrap();
    archive.submit(ArchiveRequest::Archive(second)).unwrap();
    let Err(ArchiveRequest::Archive(back)) = archive.submit(ArchiveRequest::Archive(third)) else { panic!() };
    assert_eq!(back.token, 102);
    archive.submit(ArchiveRequest::Entries { token: 1, id: back.id }).unwrap();
    let delete = ArchiveRequest::Delete { token: 2, ids: vec![back.id] };
    let Err(ArchiveRequest::Delete { token: 2, ids }) = archive.submit(delete) else { panic!() };
    assert_eq!(ids, [back.id]);
    assert_eq!(drain(&mut archive).len(), 3);
    archive.submit(ArchiveRequest::Archive(back)).unwrap();
    assert_eq!(drain(&mut archive).len(), 1);
}
