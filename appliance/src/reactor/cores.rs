//! Lists of processor cores in SPDK's notation: `0,2-3`, `[0,2-3]`, or a bit mask, `0xd`.

use std::fmt;
use std::str::FromStr;

/// Core numbers are below this: the size of the kernel's CPU set.
pub const CORES_MAX: usize = 1024;

/// Cores, each once, in the order in which they were named. A mask names them from the lowest up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

/// Why a text is not a list of cores, or why a list cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoresError {
    /// It names no core.
    #[error("no core is named; give a list like 0,2-3 or a mask like 0xd")]
    Empty,
    /// A part is neither a number nor a range.
    #[error("'{part}' is no core; give a list like 0,2-3 or a mask like 0xd")]
    NotACore {
        /// The part.
        part: String,
    },
    /// The range is descending.
    #[error("the range {first}-{last} goes down; write {last}-{first}")]
    Backwards {
        /// Its first core.
        first: usize,
        /// Its last core.
        last: usize,
    },
    /// A core is named twice.
    #[error("core {core} is named twice")]
    Twice {
        /// The core.
        core: usize,
    },
    /// A core number is at or above [`CORES_MAX`].
    #[error("core {core} is too high; cores are below {CORES_MAX}")]
    TooHigh {
        /// The core.
        core: usize,
    },
    /// This process may not run on a core.
    #[error("core {core} does not exist here or is not for this process; it may run on {available}")]
    Missing {
        /// The core.
        core: usize,
        /// The cores on which it may run.
        available: Cores,
    },
}

impl Cores {
    /// The cores that this process may run on. Core 0 if the kernel does not report them.
    pub fn available() -> Self {
        let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
        let cores: Vec<usize> = (0..CORES_MAX).filter(|&core| set.is_set(core)).collect();
        if cores.is_empty() { Cores(vec![0]) } else { Cores(cores) }
    }

    /// Checks that all of them are among `available`.
    ///
    /// # Errors
    /// [`CoresError::Missing`], with the first core that is not.
    pub fn check(&self, available: &Cores) -> Result<(), CoresError> {
        match self.0.iter().find(|&core| !available.0.contains(core)) {
            Some(&core) => Err(CoresError::Missing { core, available: available.clone() }),
            None => Ok(()),
        }
    }

    /// The first.
    pub fn first(&self) -> usize {
        self.0[0]
    }

    /// Those after the first.
    pub fn rest(&self) -> &[usize] {
        &self.0[1..]
    }

    fn add(&mut self, core: usize) -> Result<(), CoresError> {
        if core >= CORES_MAX {
            return Err(CoresError::TooHigh { core });
        }
        if self.0.contains(&core) {
            return Err(CoresError::Twice { core });
        }
        self.0.push(core);
        Ok(())
    }

    fn add_mask(&mut self, digits: &str) -> Result<(), CoresError> {
        for (place, digit) in digits.chars().rev().enumerate() {
            let bits =
                digit.to_digit(16).ok_or_else(|| CoresError::NotACore { part: format!("0x{digits}") })?;
            for bit in (0..4).filter(|bit| bits & (1 << bit) != 0) {
                self.add(place * 4 + bit)?;
            }
        }
        Ok(())
    }

    fn add_part(&mut self, part: &str) -> Result<(), CoresError> {
        let number = |text: &str| {
            // A sign is not allowed.
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| plain);
            number.ok_or_else(|| CoresError::NotACore { part: part.to_owned() })
        };
        let Some((first, last)) = part.split_once('-') else { return self.add(number(part)?) };
        let (first, last) = (number(first.trim())?, number(last.trim())?);
        if last < first {
            return Err(CoresError::Backwards { first, last });
        }
        (first..=last).try_for_each(|core| self.add(core))
    }
}

impl From<usize> for Cores {
    fn from(core: usize) -> Self {
        Cores(vec![core])
    }
}

impl FromStr for Cores {
    type Err = CoresError;

    fn from_str(text: &str) -> Result<Self, CoresError> {
        let text = text.trim();
        let list = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let mut cores = Cores(Vec::new());
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            cores.add_mask(digits)?;
        } else if !list.trim().is_empty() {
            list.split(',').try_for_each(|part| cores.add_part(part.trim()))?;
        }
        if cores.0.is_empty() { Err(CoresError::Empty) } else { Ok(cores) }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.0.chunk_by(|core, next| core + 1 == *next).enumerate() {
            let separator = if index == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{separator}{first}-{last}")?,
                [core] => write!(f, "{separator}{core}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks() {
        for (text, cores) in [
            ("0", &[0][..]),
            ("0,2-3", &[0, 2, 3]),
            ("[0,2-3]", &[0, 2, 3]),
            (" 3, 1 - 2 ", &[3, 1, 2]),
            ("0x5", &[0, 2]),
            ("0XD", &[0, 2, 3]),
            ("0x100000000000000000", &[68]),
            ("1023", &[1023]),
        ] {
            assert_eq!(text.parse::<Cores>(), Ok(Cores(cores.to_vec())), "{text}");
        }
        let cores: Cores = "4-6,1,9-10".parse().expect("a list");
        assert_eq!(cores.to_string(), "4-6,1,9-10");
        assert_eq!((cores.first(), cores.rest()), (4, &[5, 6, 1, 9, 10][..]));
    }

    #[test]
    fn mistakes_are_named() {
        let not_a_core = |part: &str| CoresError::NotACore { part: part.to_owned() };
        for (text, error) in [
            ("", CoresError::Empty),
            ("[]", CoresError::Empty),
            ("0x0", CoresError::Empty),
            ("0x", CoresError::Empty),
            ("a", not_a_core("a")),
            ("1,,2", not_a_core("")),
            ("1-", not_a_core("1-")),
            ("-1", not_a_core("-1")),
            ("+1", not_a_core("+1")),
            ("0xg", not_a_core("0xg")),
            ("99999999999999999999", not_a_core("99999999999999999999")),
            ("3-1", CoresError::Backwards { first: 3, last: 1 }),
            ("1,0-2", CoresError::Twice { core: 1 }),
            ("0-4000000000", CoresError::TooHigh { core: 1024 }),
            ("1024", CoresError::TooHigh { core: 1024 }),
        ] {
            assert_eq!(text.parse::<Cores>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_missing_core_is_named_beside_those_that_are_there() {
        let available: Cores = "0-1,4".parse().expect("a list");
        assert_eq!("4,0".parse::<Cores>().expect("a list").check(&available), Ok(()));
        let error = "0,2-3".parse::<Cores>().expect("a list").check(&available).expect_err("2 is not there");
        assert_eq!(
            error.to_string(),
            "core 2 does not exist here or is not for this process; it may run on 0-1,4"
        );
        assert_eq!(Cores::available().check(&Cores::available()), Ok(()));
    }
}
