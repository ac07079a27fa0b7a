//! Finds the records of a SIMH .tap file, including those after a damaged place.
//!
//! Every block has its length before it and after it. Where the two differ, where a length points
//! outside the file, and where a mark claims the end of the medium although bytes follow, one of
//! these holds:
//! - the length before the block is right: the next record begins where it says;
//! - the length after it is right: read backward from what follows, records lead to this place;
//! - neither: everything between this place and the first record that is found again is one
//!   unreadable stretch;
//! - nothing that the tape store wrote follows: a write was cut off here, or the end of the file is
//!   missing. Only a record of what was written can tell these apart; the bytes are called the
//!   tail.
//!
//! What follows is found by the store's own marks: a block of data does not have their checksums by
//! chance.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::drive::{BLOCK_BYTES_MAX, Damage};
use super::format::{MAGIC, MARK_BYTES, Mark};

pub(super) const FILEMARK: u32 = 0;
pub(super) const END_OF_MEDIUM: u32 = 0xFFFF_FFFF;
pub(super) const ERASE_GAP: u32 = 0xFFFF_FFFE;
pub(super) const CLASS_MASK: u32 = 0xF000_0000;
pub(super) const CLASS_BAD: u32 = 0x8000_0000;

/// More filemarks in a row than are ever written: a longer run of zeroes is a lost part of the
/// file.
const FILEMARKS_MAX: usize = 8;
/// The size of a mark, and of each of a block's two lengths, in bytes.
const WORD_BYTES: u64 = 4;
/// Bytes that are searched at a time.
const SEARCH_BYTES: usize = 1 << 20;

/// The size of a block with one of the store's marks, in bytes.
const MARK_BLOCK_BYTES: usize = MARK_BYTES + 2 * WORD_BYTES as usize;
/// Offsets that one search covers: such a block could begin at each of them.
const SEARCHED_BYTES: u64 = (SEARCH_BYTES - MARK_BLOCK_BYTES + 1) as u64;

/// One object of the tape, as far as it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Filemark,
    Block { len: u32 },
    Bad,
}

/// The offsets of all objects, and the damage.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The offset of each object; gaps belong to the object after them.
    pub offsets: Vec<u64>,
    /// The offset of the end of data.
    pub end_bytes: u64,
    /// Bytes after the end that are not records.
    pub tail_bytes: u64,
    /// Objects whose first length is damaged, by their number.
    pub repaired: BTreeMap<usize, Record>,
    /// The damaged places.
    pub damage: Vec<Damage>,
}

/// The size of a block with its two lengths.
pub(super) fn block_bytes(len: u32) -> u64 {
    padded_bytes(len).saturating_add(2 * WORD_BYTES)
}

/// The size of a block's data, padded to an even length.
pub(super) fn padded_bytes(len: u32) -> u64 {
    u64::from(len).div_ceil(2).saturating_mul(2)
}

/// The end of the word at an offset. No file is long enough for this to overflow.
pub(super) fn after_word(offset: u64) -> u64 {
    offset.saturating_add(WORD_BYTES)
}

/// The beginning of the word that ends at an offset; the caller knows that a word ends there.
pub(super) fn before_word(end: u64) -> u64 {
    end.saturating_sub(WORD_BYTES)
}

/// Whether a record between two offsets is longer than a filemark.
fn is_block(begin: u64, end: u64) -> bool {
    end > after_word(begin)
}

/// The length of a block from the word next to it, if a block can be that long.
fn block_len(word: u32) -> Option<u32> {
    let len = word & !CLASS_MASK;
    let class = word & CLASS_MASK;
    (matches!(class, 0 | CLASS_BAD) && len > 0 && len as usize <= BLOCK_BYTES_MAX).then_some(len)
}

fn record_of(word: u32, len: u32) -> Record {
    if word & CLASS_MASK == 0 { Record::Block { len } } else { Record::Bad }
}

pub(super) fn u32_at(file: &File, offset: u64) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Whether bytes are a block with one of the store's marks. One of its two lengths may be damaged.
fn is_mark_block(bytes: &[u8]) -> bool {
    let Some((before, rest)) = bytes.split_first_chunk() else { return false };
    let Some((mark, after)) = rest.split_last_chunk() else { return false };
    mark.starts_with(&MAGIC)
        && [before, after].iter().any(|&&length| u32::from_le_bytes(length) == MARK_BYTES as u32)
        && Mark::decode(mark).is_some()
}

/// What is at an offset.
enum AtOffset {
    Gap,
    Record {
        end: u64,
    },
    /// A mark claims that nothing follows.
    End,
    Broken,
}

/// A record that was passed backward: its begin, its end, and its corrected kind if its first
/// length is damaged.
type Passed = (u64, u64, Option<Record>);

struct Parser<'a> {
    file: &'a File,
    len_bytes: u64,
    index: Index,
}

/// Reads the whole file's structure: one small read for each object, and more where it is damaged.
///
/// # Errors
/// The operating system's.
pub(super) fn parse(file: &File) -> io::Result<Index> {
    let len_bytes = file.metadata()?.len();
    let mut parser = Parser { file, len_bytes, index: Index::default() };
    parser.run()?;
    Ok(parser.index)
}

impl Parser<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut offset = 0;
        let mut begin = 0;
        let mut filemarks = 0_usize;
        while offset < self.len_bytes {
            let found = self.look(offset)?;
            match found {
                AtOffset::Gap => {
                    offset = after_word(offset);
                    continue;
                }
                AtOffset::Record { end } if is_block(offset, end) || filemarks < FILEMARKS_MAX => {
                    filemarks = if is_block(offset, end) { 0 } else { filemarks.saturating_add(1) };
                    self.push(begin, end);
                    offset = end;
                }
                AtOffset::Record { .. } | AtOffset::End | AtOffset::Broken => {
                    let ends = matches!(found, AtOffset::End);
                    let Some(next) = self.resume(begin, offset, ends)? else {
                        // An end mark at the very end of the file is regular.
                        let is_plain = ends && after_word(offset) == self.len_bytes;
                        self.index.tail_bytes =
                            if is_plain { 0 } else { self.len_bytes.saturating_sub(offset) };
                        return Ok(());
                    };
                    filemarks = 0;
                    offset = next;
                }
            }
            begin = offset;
        }
        Ok(())
    }

    fn push(&mut self, begin: u64, end: u64) {
        self.index.offsets.push(begin);
        self.index.end_bytes = end;
    }

    fn look(&self, offset: u64) -> io::Result<AtOffset> {
        if after_word(offset) > self.len_bytes {
            return Ok(AtOffset::Broken);
        }
        let word = u32_at(self.file, offset)?;
        Ok(match word {
            FILEMARK => AtOffset::Record { end: after_word(offset) },
            ERASE_GAP => AtOffset::Gap,
            END_OF_MEDIUM => AtOffset::End,
            _ => match block_len(word) {
                Some(len) => {
                    let end = offset.saturating_add(block_bytes(len));
                    let closes = end <= self.len_bytes && u32_at(self.file, before_word(end))? == word;
                    if closes { AtOffset::Record { end } } else { AtOffset::Broken }
                }
                None => AtOffset::Broken,
            },
        })
    }

    /// Whether a record certainly begins at an offset, or the file ends there.
    fn is_sure(&self, offset: u64) -> io::Result<bool> {
        if offset == self.len_bytes {
            return Ok(true);
        }
        match self.look(offset)? {
            AtOffset::Record { end } if is_block(offset, end) => Ok(true),
            AtOffset::Record { end } => Ok(end == self.len_bytes
                || matches!(self.look(end)?, AtOffset::Record { end: next } if is_block(end, next))),
            _ => Ok(false),
        }
    }

    /// Continues after a damaged place; returns the offset, or `None` when nothing recognisable
    /// follows.
    fn resume(&mut self, begin: u64, offset: u64, ends: bool) -> io::Result<Option<u64>> {
        if !ends && after_word(offset) <= self.len_bytes {
            let word = u32_at(self.file, offset)?;
            if let Some(len) = block_len(word) {
                let end = offset.saturating_add(block_bytes(len));
                if end <= self.len_bytes && self.is_sure(end)? {
                    self.note(offset, before_word(end), WORD_BYTES);
                    self.index.repaired.insert(self.index.offsets.len(), record_of(word, len));
                    self.push(begin, end);
                    return Ok(Some(end));
                }
            }
        }
        let Some(mark) = self.find_mark(if ends { after_word(offset) } else { offset })? else {
            return Ok(None);
        };
        let (records, from) = self.walk_back(offset, mark)?;
        if from > offset {
            self.note(offset, offset, from.saturating_sub(offset));
            self.index.repaired.insert(self.index.offsets.len(), Record::Bad);
            self.push(begin, from);
        }
        for &(start, end, repaired) in records.iter().rev() {
            if let Some(record) = repaired {
                self.note(offset, start, WORD_BYTES);
                self.index.repaired.insert(self.index.offsets.len(), record);
            }
            self.push(if start == offset { begin } else { start }, end);
        }
        if matches!(self.look(mark)?, AtOffset::Record { .. }) {
            return Ok(Some(mark));
        }
        let end = mark.saturating_add(block_bytes(MARK_BYTES as u32));
        self.note(mark, mark, WORD_BYTES);
        let record = Record::Block { len: MARK_BYTES as u32 };
        self.index.repaired.insert(self.index.offsets.len(), record);
        self.push(if mark == offset { begin } else { mark }, end);
        Ok(Some(end))
    }

    fn note(&mut self, record_offset: u64, offset: u64, len_bytes: u64) {
        let object = self.index.offsets.len() as u64;
        let behind_bytes = self.len_bytes.saturating_sub(record_offset);
        self.index.damage.push(Damage { object, offset_bytes: offset, len_bytes, behind_bytes });
    }

    /// The first block from an offset on that is one of the store's marks.
    fn find_mark(&self, from: u64) -> io::Result<Option<u64>> {
        let mut buffer = vec![0; SEARCH_BYTES];
        let mut base = from;
        loop {
            let left_bytes = self.len_bytes.saturating_sub(base);
            buffer.truncate(left_bytes.min(SEARCH_BYTES as u64) as usize);
            self.file.read_exact_at(&mut buffer, base)?;
            let mut blocks = (base..).zip(buffer.windows(MARK_BLOCK_BYTES));
            if let Some((start, _)) = blocks.find(|(_, block)| is_mark_block(block)) {
                return Ok(Some(start));
            }
            if left_bytes <= SEARCH_BYTES as u64 {
                return Ok(None);
            }
            base = base.saturating_add(SEARCHED_BYTES);
        }
    }

    /// The records before `from`, last first, as far back as their lengths lead, but not before
    /// `to`; and the offset where they begin.
    fn walk_back(&self, to: u64, from: u64) -> io::Result<(Vec<Passed>, u64)> {
        let mut records = Vec::new();
        let mut at = from;
        while at >= after_word(to) {
            let mark = before_word(at);
            if u32_at(self.file, mark)? == FILEMARK {
                let before = self.block_before(to, mark)?;
                if before.is_none() && mark != to {
                    break;
                }
                records.push((mark, at, None));
                at = mark;
                continue;
            }
            let Some((start, repaired)) = self.block_before(to, at)? else { break };
            records.push((start, at, repaired));
            at = start;
        }
        Ok((records, at))
    }

    /// The block that ends at an offset: where it begins, and its corrected kind if its first
    /// length is damaged.
    fn block_before(&self, to: u64, end: u64) -> io::Result<Option<(u64, Option<Record>)>> {
        if end < after_word(after_word(to)) {
            return Ok(None);
        }
        let word = u32_at(self.file, before_word(end))?;
        let start =
            block_len(word).and_then(|len| end.checked_sub(block_bytes(len)).map(|start| (start, len)));
        let Some((start, len)) = start.filter(|&(start, _)| start >= to) else { return Ok(None) };
        if u32_at(self.file, start)? == word {
            return Ok(Some((start, None)));
        }
        Ok((start == to).then(|| (start, Some(record_of(word, len)))))
    }
}
