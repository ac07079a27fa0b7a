//! A SCSI tape drive over an emulated one: the stream commands (SSC) that Linux's `st` sends, and
//! those that every SCSI device answers.
//!
//! Blocks have any size; the fixed block mode is refused. Every failure is a sense in the fixed
//! format, with the codes of the standard.

use varve::archive::store::tape::{Drive, DriveError, Read, TapDrive};

const NO_SENSE: u8 = 0;
const MEDIUM_ERROR: u8 = 3;
const HARDWARE_ERROR: u8 = 4;
const ILLEGAL_REQUEST: u8 = 5;
const UNIT_ATTENTION: u8 = 6;
const BLANK_CHECK: u8 = 8;
const VOLUME_OVERFLOW: u8 = 13;

const FILEMARK: u8 = 0x80;
const END_OF_MEDIUM: u8 = 0x40;
const WRONG_LENGTH: u8 = 0x20;

const INVALID_OPERATION: u16 = 0x2000;
const INVALID_FIELD: u16 = 0x2400;
const INVALID_PARAMETER: u16 = 0x2600;
const POWER_ON: u16 = 0x2900;
const FILEMARK_DETECTED: u16 = 0x0001;
const END_OF_PARTITION: u16 = 0x0002;
const BEGIN_OF_PARTITION: u16 = 0x0004;
const END_OF_DATA: u16 = 0x0005;
const READ_ERROR: u16 = 0x1100;
const INTERNAL_FAILURE: u16 = 0x4400;

/// Why a command did not end with status "good".
#[derive(Debug, Clone, Copy)]
struct Sense {
    key: u8,
    flags: u8,
    code: u16,
    information: Option<u32>,
}

impl Sense {
    fn new(key: u8, code: u16) -> Self {
        Sense { key, flags: 0, code, information: None }
    }

    fn with(self, flags: u8, information: u32) -> Self {
        Sense { flags, information: Some(information), ..self }
    }

    fn encode(self) -> [u8; SENSE_BYTES] {
        let mut bytes = [0; SENSE_BYTES];
        bytes[0] = 0x70;
        if let Some(information) = self.information {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[2] = self.key | self.flags;
        bytes[7] = 10;
        bytes[12..14].copy_from_slice(&self.code.to_be_bytes());
        bytes
    }
}

/// Bytes of a sense.
pub(super) const SENSE_BYTES: usize = 18;

/// How a command ended.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The data for the host. An answer with a sense may have some too.
    pub data: Vec<u8>,
    /// None means status "good", a sense means status "check condition".
    pub sense: Option<[u8; SENSE_BYTES]>,
}

impl From<Sense> for Answer {
    fn from(sense: Sense) -> Self {
        Answer { data: Vec::new(), sense: Some(sense.encode()) }
    }
}

/// A drive as a logical unit.
#[derive(Debug)]
pub(super) struct StreamUnit {
    drive: TapDrive,
    number: usize,
    was_reset: bool,
    buffer: Vec<u8>,
}

/// Three bytes of a command, as a number.
fn triple(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

impl StreamUnit {
    pub(super) fn new(drive: TapDrive, number: usize) -> Self {
        let buffer = vec![0; drive.block_bytes_max()];
        StreamUnit { drive, number, was_reset: true, buffer }
    }

    /// From now on another host uses it.
    pub(super) fn reset(&mut self) {
        self.was_reset = true;
    }

    /// Executes a command with its data; the host accepts at most `room_bytes`.
    pub(super) fn execute(&mut self, command: &[u8], data: &[u8], room_bytes: usize, units: usize) -> Answer {
        let always = matches!(command[0], 0x03 | 0x12 | 0xa0);
        if self.was_reset && !always {
            self.was_reset = false;
            return Sense::new(UNIT_ATTENTION, POWER_ON).into();
        }
        let answer = match command[0] {
            // TEST UNIT READY, RESERVE, RELEASE, LOAD, PREVENT REMOVAL
            0x00 | 0x16 | 0x17 | 0x1b | 0x1e => Ok(Answer::default()),
            0x01 => self.done(Drive::rewind),
            0x03 => Ok(data_of(Sense::new(NO_SENSE, 0).encode().to_vec())),
            0x05 => Ok(data_of(self.block_limits())),
            0x08 => self.read(command),
            0x0a => self.write(command, data),
            0x10 => self.write_filemarks(command),
            0x11 => self.space(command),
            0x12 => self.inquire(command),
            0x15 => mode_select(data),
            0x1a => Ok(data_of(mode_sense())),
            0x2b => {
                let object = u32::from_be_bytes([command[3], command[4], command[5], command[6]]);
                self.done(|drive| drive.locate(u64::from(object)))
            }
            0x34 => self.position(),
            0xa0 => Ok(data_of(list_units(units))),
            _ => Err(Sense::new(ILLEGAL_REQUEST, INVALID_OPERATION)),
        };
        let mut answer = answer.unwrap_or_else(Answer::from);
        let allocated = match command[0] {
            0x12 => usize::from(command[3]) << 8 | usize::from(command[4]),
            0x03 | 0x1a => usize::from(command[4]),
            _ => room_bytes,
        };
        answer.data.truncate(allocated.min(room_bytes));
        answer
    }

    fn done(
        &mut self,
        action: impl FnOnce(&mut TapDrive) -> Result<(), DriveError>,
    ) -> Result<Answer, Sense> {
        action(&mut self.drive).map(|()| Answer::default()).map_err(|error| sense_of(&error))
    }

    fn block_limits(&self) -> Vec<u8> {
        let largest = (self.drive.block_bytes_max() as u32).to_be_bytes();
        vec![0, largest[1], largest[2], largest[3], 0, 1]
    }

    fn read(&mut self, command: &[u8]) -> Result<Answer, Sense> {
        let wanted = variable_length(command)?;
        match self.drive.read_block(&mut self.buffer) {
            Ok(Read::Block(len)) => {
                let data = self.buffer[..len.min(wanted as usize)].to_vec();
                let sense = (len != wanted as usize).then(|| {
                    // The requested length minus the block's length; negative if the block is
                    // longer.
                    let difference = wanted.wrapping_sub(len as u32);
                    Sense::new(NO_SENSE, 0).with(WRONG_LENGTH, difference).encode()
                });
                Ok(Answer { data, sense })
            }
            Ok(Read::Filemark) => Err(Sense::new(NO_SENSE, FILEMARK_DETECTED).with(FILEMARK, wanted)),
            Ok(Read::EndOfData) => Err(Sense::new(BLANK_CHECK, END_OF_DATA).with(0, wanted)),
            Err(error) => Err(sense_of(&error)),
        }
    }

    fn write(&mut self, command: &[u8], data: &[u8]) -> Result<Answer, Sense> {
        let len = variable_length(command)?;
        let block = data.get(..len as usize).ok_or(Sense::new(ILLEGAL_REQUEST, INVALID_FIELD))?;
        if block.is_empty() {
            return Ok(Answer::default());
        }
        match self.drive.write_block(block) {
            Ok(written) if written.early_warning => Err(warning()),
            Ok(_) => Ok(Answer::default()),
            Err(DriveError::EndOfMedium) => Err(overflow(len)),
            Err(error) => Err(sense_of(&error)),
        }
    }

    fn write_filemarks(&mut self, command: &[u8]) -> Result<Answer, Sense> {
        let count = triple(&command[2..5]);
        match self.drive.write_filemarks(count, command[1] & 1 != 0) {
            Ok(written) if written.early_warning => Err(warning()),
            Ok(_) => Ok(Answer::default()),
            Err(DriveError::EndOfMedium) => Err(overflow(count)),
            Err(error) => Err(sense_of(&error)),
        }
    }

    fn space(&mut self, command: &[u8]) -> Result<Answer, Sense> {
        let count = (triple(&command[2..5]) << 8).cast_signed() >> 8;
        match command[1] & 0x0f {
            1 => {
                let passed =
                    self.drive.space_filemarks(i64::from(count)).map_err(|error| sense_of(&error))?;
                let short = count.unsigned_abs() - passed as u32;
                match (short, count > 0) {
                    (0, _) => Ok(Answer::default()),
                    (_, true) => Err(Sense::new(BLANK_CHECK, END_OF_DATA).with(0, short)),
                    (_, false) => Err(Sense::new(NO_SENSE, BEGIN_OF_PARTITION).with(END_OF_MEDIUM, short)),
                }
            }
            3 => self.done(Drive::space_end_of_data),
            _ => Err(Sense::new(ILLEGAL_REQUEST, INVALID_FIELD)),
        }
    }

    fn position(&mut self) -> Result<Answer, Sense> {
        let position = self.drive.position().map_err(|error| sense_of(&error))?;
        let mut data = vec![0; 20];
        data[0] = u8::from(position.object == 0) << 7 | u8::from(position.early_warning) << 6;
        let object = (position.object as u32).to_be_bytes();
        data[4..8].copy_from_slice(&object);
        data[8..12].copy_from_slice(&object);
        Ok(data_of(data))
    }

    fn inquire(&self, command: &[u8]) -> Result<Answer, Sense> {
        let serial = format!("VARVE{:03}", self.number);
        // A sequential-access device; each page begins with the device type, its number and its
        // length.
        let page = |facts: &[u8]| [[1, command[2], 0, facts.len() as u8].as_slice(), facts].concat();
        let data = match (command[1] & 1, command[2]) {
            (0, _) => {
                let mut data = vec![1, 0x80, 6, 2, 31, 0, 0, 0];
                data.extend_from_slice(b"VARVE   TEST TAPE       0001");
                data
            }
            (1, 0x00) => page(&[0x00, 0x80, 0x83]),
            (1, 0x80) => page(serial.as_bytes()),
            (1, 0x83) => page(&[[2, 1, 0, 16].as_slice(), b"VARVE   ", serial.as_bytes()].concat()),
            _ => return Err(Sense::new(ILLEGAL_REQUEST, INVALID_FIELD)),
        };
        Ok(data_of(data))
    }
}

fn mode_sense() -> Vec<u8> {
    // Buffered, blocks of any size, one descriptor and no pages.
    vec![11, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn mode_select(data: &[u8]) -> Result<Answer, Sense> {
    let descriptor = if data.get(3) == Some(&8) { data.get(4..12) } else { None };
    if descriptor.is_some_and(|descriptor| triple(&descriptor[5..8]) != 0) {
        return Err(Sense::new(ILLEGAL_REQUEST, INVALID_PARAMETER));
    }
    Ok(Answer::default())
}

/// The length in a read or a write of one block.
fn variable_length(command: &[u8]) -> Result<u32, Sense> {
    if command[1] & 1 != 0 {
        return Err(Sense::new(ILLEGAL_REQUEST, INVALID_FIELD));
    }
    Ok(triple(&command[2..5]))
}

fn list_units(units: usize) -> Vec<u8> {
    let mut data = vec![0; 8 + 8 * units];
    data[..4].copy_from_slice(&(8 * units as u32).to_be_bytes());
    for number in 0..units {
        data[8 + 8 * number + 1] = number as u8;
    }
    data
}

fn data_of(data: Vec<u8>) -> Answer {
    Answer { data, sense: None }
}

/// Everything was written, and the end is near.
fn warning() -> Sense {
    Sense::new(NO_SENSE, END_OF_PARTITION).with(END_OF_MEDIUM, 0)
}

fn overflow(left: u32) -> Sense {
    Sense::new(VOLUME_OVERFLOW, END_OF_PARTITION).with(END_OF_MEDIUM, left)
}

fn sense_of(error: &DriveError) -> Sense {
    match error {
        DriveError::Medium(_) => Sense::new(MEDIUM_ERROR, READ_ERROR),
        DriveError::NoSuchPosition(_) => Sense::new(BLANK_CHECK, END_OF_DATA),
        DriveError::BlockTooLarge(_) => Sense::new(ILLEGAL_REQUEST, INVALID_FIELD),
        _ => Sense::new(HARDWARE_ERROR, INTERNAL_FAILURE),
    }
}
