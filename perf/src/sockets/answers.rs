//! The answers that a responder owes, and the memory it sends from: for each request a header and,
//! for a read, the data after it.
//!
//! Headers and data are in separate memory, as the target's are. An answer that was sent in part
//! continues where it stopped.

use std::io::IoSlice;

use smallvec::SmallVec;

use crate::floor::tcp::Shape;

/// Bytes of the header of an answer: a response capsule, or the header of a data PDU.
const HEADER_BYTES: usize = 24;
/// The most pieces of one system call, as in the target.
const SLICES_MAX: usize = 256;
/// Headers without data are contiguous; this many can be sent at once.
const HEADERS_MAX: usize = 1024;

/// Pieces of memory in the order in which they are sent.
pub(super) type Slices<'a> = SmallVec<[IoSlice<'a>; SLICES_MAX]>;

/// Answers that are owed.
pub(super) struct Answers {
    shape: Shape,
    headers: Vec<u8>,
    data: Vec<u8>,
    /// Bytes of a request that has not fully arrived.
    received: usize,
    owed: usize,
    /// How many bytes of the first answer are sent.
    sent: usize,
}

impl Answers {
    pub(super) fn new(shape: Shape) -> Self {
        let data = vec![0; shape.response_bytes - HEADER_BYTES];
        let headers = vec![0; if data.is_empty() { HEADER_BYTES * HEADERS_MAX } else { HEADER_BYTES }];
        Answers { shape, headers, data, received: 0, owed: 0, sent: 0 }
    }

    /// Bytes that wait to be sent.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// Notes bytes that have arrived.
    pub(super) fn received(&mut self, count: usize) {
        self.received += count;
        self.owed += self.received / self.shape.request_bytes * self.shape.response_bytes;
        self.received %= self.shape.request_bytes;
    }

    /// Notes bytes that were sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.owed -= count;
        self.sent = (self.sent + count) % self.shape.response_bytes;
    }

    /// The pieces to send next, at most [`SLICES_MAX`].
    pub(super) fn slices(&self) -> Slices<'_> {
        let mut slices = Slices::new();
        if self.data.is_empty() {
            slices.push(IoSlice::new(&self.headers[..self.owed.min(self.headers.len())]));
            return slices;
        }
        let (mut left, mut at) = (self.owed, self.sent);
        while left > 0 && slices.len() < SLICES_MAX {
            let piece = if at < HEADER_BYTES { &self.headers[at..] } else { &self.data[at - HEADER_BYTES..] };
            let piece = &piece[..piece.len().min(left)];
            slices.push(IoSlice::new(piece));
            left -= piece.len();
            at = (at + piece.len()) % self.shape.response_bytes;
        }
        slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(answers: &Answers) -> Vec<usize> {
        answers.slices().iter().map(|slice| slice.len()).collect()
    }

    #[test]
    fn each_whole_request_is_answered_once_with_header_and_data() {
        let mut answers = Answers::new(Shape::read(4096));
        answers.received(71);
        assert_eq!(answers.owed(), 0, "the request is not whole");
        answers.received(1 + 72 + 10);
        assert_eq!((answers.owed(), lengths(&answers)), (2 * 4120, vec![24, 4096, 24, 4096]));
        answers.sent(20);
        assert_eq!(lengths(&answers), [4, 4096, 24, 4096]);
        answers.sent(4 + 4096 + 24 + 96);
        assert_eq!((answers.owed(), lengths(&answers)), (4000, vec![4000]));
        answers.sent(4000);
        answers.received(62);
        assert_eq!((answers.owed(), lengths(&answers)), (4120, vec![24, 4096]));
    }

    #[test]
    fn answers_without_data_are_one_piece_and_pieces_are_bounded() {
        let mut answers = Answers::new(Shape::write(4096));
        answers.received(32 * (72 + 4096));
        assert_eq!(lengths(&answers), [32 * 24]);
        let mut answers = Answers::new(Shape::read(4096));
        answers.received(1000 * 72);
        assert_eq!(answers.slices().len(), SLICES_MAX);
    }
}
