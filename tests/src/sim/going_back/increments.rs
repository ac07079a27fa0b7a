//! A difference as a file: exported from a volume between two points, and applied to a clone of the
//! first one, as `varve diff --export` and `--apply` do it: a synch before the first write, and one
//! behind the last.

use std::rc::Rc;

use uuid::Uuid;
use varve::dma::BLOCK_BYTES;
use varve::increment::{
    Description, EntryKind, Header, IncrementReader, IncrementWriter, Kind, Member, PointText, verify,
};
use varve::log::Lsn;
use varve::volume::{DiffKind, DiffRange, Point, Request, VolumeId};

use super::super::model::{Stamp, VolumeState, is_filled};
use super::super::workload::{Opened, Run};
use super::super::world::{run, wait};
use super::{Cut, VOLUMES_MAX};

impl Run {
    /// Exports a random difference, makes a clone of its first point, and applies it there. With
    /// `cut` it stops after some of the writes, and a crash follows; the clone stays as it is.
    pub(super) fn verb_increment(&mut self, cut: Option<Cut>) {
        // A block that cannot be read cannot be exported.
        if self.trouble.had_lasting || self.live().len() + 2 > VOLUMES_MAX {
            return;
        }
        let Some((place, one)) = self.random_point(|_, _| true) else { return };
        let Some((_, other)) = self.random_point(|_, known| known == place) else { return };
        let (from, to) = (one.min(other), one.max(other));
        self.settle();
        let Some((ranges, totals)) = self.checked_diff(place, Some(from), to) else { return };
        let Some(file) = self.export(place, from, to, &ranges, totals) else { return };
        let Some(clone) = self.clone_for_apply(place, from) else { return };
        let after = self.model.state_at(place, to).expect("it existed");
        let size_blocks = self.model.state_at(clone, u64::MAX).expect("it was made").size_blocks;
        if after.size_blocks > size_blocks && !self.grow_to(clone, after.size_blocks) {
            return;
        }
        let writes = cut.map(|cut| cut.turns % 20);
        if !self.apply(&file, clone, &after, writes) {
            if cut.is_some() {
                self.note_cut();
                self.count_verb("increment").cut += 1;
            }
            return;
        }
        self.count_verb("increment").done += 1;
        let found = self.model.state_at(clone, u64::MAX).expect("it is alive");
        for block in 0..after.size_blocks {
            let wanted = after.blocks.get(&block);
            assert_eq!(found.blocks.get(&block), wanted, "seed {}: block {block}", self.seed);
        }
        self.check_place(clone);
    }

    /// The increment of a volume between two points, from a read-only clone of the second.
    fn export(
        &mut self,
        place: usize,
        from: u64,
        to: u64,
        ranges: &[DiffRange],
        [data_blocks, unmapped_blocks]: [u64; 2],
    ) -> Option<Vec<u8>> {
        let name = self.new_name("probe");
        let source = self.model.name_at(place, to).to_owned();
        let clone = Rc::clone(&self.pool).clone_volume(source, Point::Lsn(to), name.clone(), true);
        let volume = match wait(&self.pool, clone) {
            Ok(info) => info.volume,
            Err(error) => {
                self.check_refusal("increment", &error, &[(place, to)]);
                return None;
            }
        };
        let pool = self.pool.info().uuid;
        let header = Header {
            kind: Kind::Net,
            pool,
            history: Uuid::nil(),
            series: Uuid::from_u128(1),
            number: 0,
            from_lsn: Lsn(from),
            to_lsn: Lsn(to),
            from_ns: 1,
            to_ns: 2,
            made_ns: 3,
            previous_digest: [0; 32],
            data_blocks,
            unmapped_blocks,
        };
        let size_blocks = volume.size_bytes / BLOCK_BYTES as u64;
        let member = Member {
            uuid: volume.uuid,
            name: name.clone(),
            from_size_blocks: size_blocks,
            to_size_blocks: size_blocks,
        };
        let point = |lsn: u64| PointText { point: Point::Lsn(lsn).to_string() };
        let description = Description { from: point(from), to: point(to), members: vec![member] };
        let mut writer = IncrementWriter::begin(Vec::new(), header, &description).expect("a buffer");
        for range in ranges {
            match range.kind {
                DiffKind::Unmapped => writer.unmapped(0, range.block, range.blocks).expect("in order"),
                DiffKind::Written => {
                    for block in range.block..range.block + range.blocks {
                        let data = self.read_block(volume.id, block);
                        writer.data(0, block, &data).expect("in order");
                    }
                }
            }
        }
        let (_, file) = writer.finish().expect("the counts are those of the difference");
        if wait(&self.pool, Rc::clone(&self.pool).delete_volume(name.clone())).is_ok() {
            Some(file)
        } else {
            let clone = self.note_begun_clone(&name, true, place, to);
            assert!(self.model.is_alive(clone));
            None
        }
    }

    fn read_block(&self, id: VolumeId, block: u64) -> Vec<u8> {
        for _ in 0..100 {
            let read = run(&self.pool, id, &Request::Read { block, len_blocks: 1 });
            if read.result == Ok(()) {
                return read.data.iter().flat_map(|piece| piece.to_vec()).collect();
            }
            super::super::shortage::end();
        }
        panic!("seed {}: block {block} cannot be read", self.seed);
    }

    fn clone_for_apply(&mut self, place: usize, at: u64) -> Option<usize> {
        let name = self.new_name("i");
        if self.open_point(place, at, &name, false) != Opened::Yes {
            return None;
        }
        self.note_clone(&name, place, at);
        Some(self.model.volumes.len() - 1)
    }

    fn grow_to(&mut self, place: usize, size_blocks: u64) -> bool {
        let now = self.model.state_at(place, u64::MAX).expect("it is alive").size_blocks;
        self.resize_to(place, size_blocks.max(now));
        self.model.state_at(place, u64::MAX).expect("it is alive").size_blocks >= size_blocks
    }

    /// Writes an increment to a volume. `false`: it stopped after `writes_max` writes, or was
    /// refused.
    fn apply(&mut self, file: &[u8], place: usize, after: &VolumeState, writes_max: Option<u64>) -> bool {
        let mut checked = IncrementReader::open(file).expect("a whole file");
        verify(&mut checked).expect("a whole file");
        self.synch();
        let mut reader = IncrementReader::open(file).expect("a whole file");
        let mut writes = 0;
        while let Some(chunk) = reader.next_chunk().expect("a whole file") {
            for (entry, data) in chunk.pieces() {
                if writes_max.is_some_and(|most| writes >= most)
                    || self.pool.find_volume(self.model.name(place)).is_none()
                {
                    return false;
                }
                writes += 1;
                let id = self.pool.find_volume(self.model.name(place)).expect("it is there").id;
                if entry.kind == EntryKind::Unmapped {
                    self.trim_ranges(place, id, vec![(entry.block, entry.blocks)]);
                } else {
                    for (at, piece) in (entry.block..).step_by(64).zip(data.chunks(64 * BLOCK_BYTES)) {
                        let stamps = self.stamps_of(at, piece, after);
                        self.write_stamps(place, id, at, stamps);
                    }
                }
                if !self.reap() {
                    return false;
                }
            }
        }
        self.settle();
        self.synch();
        true
    }

    /// The stamps of an increment's data, which are those of its second point.
    fn stamps_of(&self, block: u64, data: &[u8], after: &VolumeState) -> Vec<Stamp> {
        let blocks = (block..).zip(data.chunks(BLOCK_BYTES));
        let stamp = |(block, bytes): (u64, &[u8])| {
            let stamp = after.blocks.get(&block).copied().unwrap_or(0);
            assert!(is_filled(stamp, block, bytes), "seed {}: block {block} of an increment", self.seed);
            stamp
        };
        blocks.map(stamp).collect()
    }
}
