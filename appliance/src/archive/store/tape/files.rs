//! Scans the files of a cartridge. Damaged places are skipped and reported, and never taken for the
//! end.
//!
//! **The end of a cartridge** is where nothing follows, as the drive reports it and as far as it is
//! known what was written. A write that was cut off leaves a file without its trailer there. It is
//! overwritten if the ledger knows every file before it. Anything else that looks like an end (a
//! damaged place, an early end mark, a short file, a medium error) makes the cartridge read-only.

use uuid::Uuid;

use super::cartridges::{Access, Cartridge};
use super::contents::{File, Files};
use super::drive::{Drive, DriveError};
use super::format::{MARK_BYTES, Mark};
use super::mark::{Content, go_to, read_mark};
use super::problem::TapeProblem;

/// The most bytes after the last file that an incomplete header can leave.
const TORN_HEADER_BYTES: u64 = 8 + MARK_BYTES as u64;
/// The number of positions that are tried one by one after an unreadable one; after these the steps
/// double.
const TRIES: u64 = 64;

/// Scans the files of one cartridge.
pub(super) struct Scanner<'a> {
    drive: &'a mut dyn Drive,
    store: Uuid,
    index: usize,
    pub(super) cartridge: Cartridge,
    pub(super) damaged: bool,
    // The end of data, as the drive reports it.
    end: u64,
}

/// What begins at a position.
enum Step {
    /// Nothing.
    End,
    /// A single filemark.
    Empty,
    /// A file with its filemark; `next` is the position after it.
    File { head: Content, last: Content, next: u64 },
    /// A file without a filemark.
    Unended { head: Content },
    /// It cannot be skipped.
    Lost,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(drive: &'a mut dyn Drive, store: Uuid, index: usize, cartridge: Cartridge) -> Self {
        Scanner { drive, store, index, cartridge, damaged: false, end: 0 }
    }

    /// `has_ledger`: all finished files are known, and `known_last` is the last one on this
    /// cartridge.
    pub(super) fn run(
        mut self,
        has_ledger: bool,
        known_last: Option<u64>,
        files: &mut Files,
        problems: &mut Vec<TapeProblem>,
    ) -> Result<Cartridge, DriveError> {
        self.find_end(problems)?;
        let barcode = self.cartridge.barcode.clone();
        loop {
            let object = self.cartridge.append;
            match self.step(object)? {
                Step::Empty => self.cartridge.append = object.saturating_add(1),
                Step::File { head, last, next } => {
                    self.cartridge.append = next;
                    if let Some(file) = self.file(object, &head, &last) {
                        self.take(file, files);
                    } else if self.is_unfinished(&head, &last) && next == self.end {
                        // Its trailer was never written; the filemark is from a driver whose
                        // process died.
                        self.cartridge.append = object;
                        self.judge_tail(&head, has_ledger, object, problems);
                        break;
                    } else {
                        self.cartridge.ended_at = next;
                        self.damaged = true;
                        problems.push(TapeProblem::Unreadable { barcode: barcode.clone(), object });
                        self.salvage(object, next, files)?;
                    }
                }
                Step::Unended { head } => {
                    self.unended(object, &head, has_ledger, known_last, files, problems)?;
                    break;
                }
                Step::Lost => {
                    self.damaged = true;
                    problems.push(TapeProblem::Unreadable { barcode: barcode.clone(), object });
                    let next = self.resume(object)?;
                    self.salvage(object, next.unwrap_or(self.end), files)?;
                    let Some(next) = next else { break };
                    (self.cartridge.append, self.cartridge.ended_at) = (next, next);
                }
                Step::End => {
                    self.judge_end(object, has_ledger, problems);
                    break;
                }
            }
        }
        if known_last > self.cartridge.last_file {
            self.damaged = true;
            let object = self.cartridge.append;
            problems.push(TapeProblem::CutShort { barcode, object, file: known_last });
        }
        if self.damaged {
            self.cartridge.access = Access::ReadOnly;
            self.cartridge.scrap = false;
            self.cartridge.last_file = self.cartridge.last_file.max(known_last);
        }
        Ok(self.cartridge)
    }

    /// Finds the end of data, and the damage that the drive reports.
    fn find_end(&mut self, problems: &mut Vec<TapeProblem>) -> Result<(), DriveError> {
        let barcode = self.cartridge.barcode.clone();
        match self.drive.space_end_of_data().and_then(|()| self.drive.position()) {
            Ok(position) => self.end = position.object,
            Err(DriveError::Medium(object)) => {
                self.damaged = true;
                self.end = object;
                problems.push(TapeProblem::NoEnd { barcode: barcode.clone() });
            }
            Err(error) => return Err(error),
        }
        for damage in self.drive.damage() {
            self.damaged = true;
            problems.push(TapeProblem::Damaged { barcode: barcode.clone(), damage });
        }
        Ok(())
    }

    fn step(&mut self, object: u64) -> Result<Step, DriveError> {
        let head = match self.drive.locate(object).and_then(|()| read_mark(self.drive)) {
            Ok(head) => head,
            Err(DriveError::NoSuchPosition(_)) if object >= self.end => return Ok(Step::End),
            Err(DriveError::NoSuchPosition(_) | DriveError::Medium(_)) => return Ok(Step::Lost),
            Err(error) => return Err(error),
        };
        match head {
            Content::EndOfData => return Ok(Step::End),
            Content::Filemark => return Ok(Step::Empty),
            _ => {}
        }
        let next = match self.drive.space_filemarks(1) {
            Ok(0) => return Ok(Step::Unended { head }),
            Ok(_) => self.drive.position()?.object,
            Err(DriveError::Medium(_)) => return Ok(Step::Lost),
            Err(error) => return Err(error),
        };
        let last = match self.drive.locate(next.saturating_sub(2)).and_then(|()| read_mark(self.drive)) {
            Ok(last) => last,
            Err(DriveError::Medium(_) | DriveError::NoSuchPosition(_)) => Content::Unreadable,
            Err(error) => return Err(error),
        };
        Ok(Step::File { head, last, next })
    }

    /// The file, if its header and trailer are this store's and belong together.
    fn file(&self, object: u64, head: &Content, last: &Content) -> Option<File> {
        let (Content::Mark(one, Mark::Header(header)), Content::Mark(other, Mark::Trailer(trailer))) =
            (head, last)
        else {
            return None;
        };
        let is_pair =
            (header.file, header.first_file, header.part) == (trailer.file, trailer.first_file, trailer.part);
        (is_pair && *one == self.store && *other == self.store).then(|| File {
            cartridge: self.index,
            object,
            header: header.clone(),
            trailer: *trailer,
        })
    }

    fn take(&mut self, file: File, files: &mut Files) {
        self.cartridge.ended_at = self.cartridge.append;
        self.cartridge.last_file = self.cartridge.last_file.max(Some(file.header.file));
        self.cartridge.count_file(file.trailer.part_bytes);
        files.push(file);
    }

    /// Whether a file is this store's and its trailer was never written.
    fn is_unfinished(&self, head: &Content, last: &Content) -> bool {
        matches!(head, Content::Mark(owner, Mark::Header(_)) if *owner == self.store)
            && matches!(last, Content::Other | Content::Mark(_, Mark::Header(_)))
    }

    /// Handles the last file when it has no filemark.
    fn unended(
        &mut self,
        object: u64,
        head: &Content,
        has_ledger: bool,
        known_last: Option<u64>,
        files: &mut Files,
        problems: &mut Vec<TapeProblem>,
    ) -> Result<(), DriveError> {
        if self.end > object.saturating_add(1) {
            let last =
                match self.drive.locate(self.end.saturating_sub(1)).and_then(|()| read_mark(self.drive)) {
                    Ok(last) => last,
                    Err(DriveError::Medium(_) | DriveError::NoSuchPosition(_)) => Content::Unreadable,
                    Err(error) => return Err(error),
                };
            // The file is complete except for its filemark. It was reported as committed, so the
            // filemark is damaged.
            if let Some(file) = self.file(object, head, &last).filter(|f| known_last >= Some(f.header.file)) {
                self.cartridge.append = self.end;
                self.take(file, files);
                self.damaged = true;
                let barcode = self.cartridge.barcode.clone();
                problems.push(TapeProblem::Tail { barcode, object: self.end });
                return Ok(());
            }
        }
        self.judge_tail(head, has_ledger, object, problems);
        Ok(())
    }

    /// Nothing begins at `object`: decides whether that is the end, and whether what a drive shows
    /// after it may be overwritten.
    fn judge_end(&mut self, object: u64, has_ledger: bool, problems: &mut Vec<TapeProblem>) {
        let barcode = || self.cartridge.barcode.clone();
        if object < self.end {
            problems.push(TapeProblem::Unreadable { barcode: barcode(), object });
            self.damaged = true;
        } else if self.drive.tail_bytes() > 0 {
            let is_short = self.drive.tail_bytes() <= TORN_HEADER_BYTES;
            if !has_ledger && !is_short {
                problems.push(TapeProblem::Tail { barcode: barcode(), object });
                self.damaged = true;
            }
            self.cartridge.scrap = has_ledger || is_short;
        }
    }

    /// Decides whether the unfinished data at `object` may be overwritten: only if it begins a file
    /// that is newer than all known files.
    fn judge_tail(&mut self, head: &Content, has_ledger: bool, object: u64, problems: &mut Vec<TapeProblem>) {
        let newest = match head {
            Content::Mark(owner, Mark::Header(header)) => {
                *owner == self.store && self.cartridge.last_file.is_none_or(|last| header.file > last)
            }
            // An incomplete header, as a block of its own length.
            Content::Other | Content::Unreadable => has_ledger && self.end <= object.saturating_add(1),
            _ => false,
        };
        self.cartridge.scrap = newest;
        if !newest {
            self.damaged = true;
            problems.push(TapeProblem::Tail { barcode: self.cartridge.barcode.clone(), object });
        }
    }

    /// Reads every block of a range in which the filemarks are unreliable: files that have both
    /// their header and trailer are intact.
    fn salvage(&mut self, from: u64, to: u64, files: &mut Files) -> Result<(), DriveError> {
        let mut begun: Option<(u64, Content)> = None;
        for object in from..to {
            // On tape, reading moves to the next object by itself.
            let mark = match go_to(self.drive, object).and_then(|()| read_mark(self.drive)) {
                Ok(mark) => mark,
                Err(DriveError::Medium(_)) => continue,
                Err(DriveError::NoSuchPosition(_)) => break,
                Err(error) => return Err(error),
            };
            match &mark {
                Content::Mark(_, Mark::Header(_)) => begun = Some((object, mark)),
                Content::Mark(_, Mark::Trailer(_)) => {
                    let file = begun.take().and_then(|(begin, head)| self.file(begin, &head, &mark));
                    if let Some(file) = file {
                        self.take(file, files);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The next position after `object` from which files can be read again: after a filemark that
    /// can be found.
    fn resume(&mut self, object: u64) -> Result<Option<u64>, DriveError> {
        let stands = self.drive.position()?.object.max(object);
        let near = (1..=TRIES).map(|step| stands.saturating_add(step));
        let far =
            (0..40).map(|power| stands.saturating_add(TRIES << power)).take_while(|&place| place < self.end);
        for place in near.chain(far).filter(|&place| place < self.end) {
            match self.drive.locate(place).and_then(|()| self.drive.space_filemarks(1)) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(self.drive.position()?.object)),
                Err(DriveError::Medium(_) | DriveError::NoSuchPosition(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
