//! The place of an archive, as an operator writes it.
//!
//! ```text
//! SPEC := DIRECTORY | dir:DIRECTORY
//! | device:FILE[,size=SIZE] a file or block device; a file that does not exist is created with
//! SIZE
//! | tape:DIRECTORY[,cartridges=N][,size=SIZE] a library of cartridge files in SIMH's format;
//! created when it is empty
//! | tape:/dev/nst0[,stage=DIRECTORY] a tape drive with a cartridge in it; objects are staged for
//! reading
//! | s3://BUCKET[/PREFIX][?OPTION[&OPTION]...] endpoint=URL, region=NAME, credentials=FILE,
//! allow_http=BOOL, path_style=BOOL
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::tape_spec::TapeSpec;
use crate::archive::store::S3Config;
use crate::text::units::SizeBytes;

/// The most cartridges of a new library.
const CARTRIDGES_MAX: u32 = 1000;
/// The smallest cartridge in bytes: it has room for labels, the early warning, and part of a
/// segment.
const CARTRIDGE_BYTES_MIN: u64 = 16 << 20;

/// The store to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSpec {
    /// A directory.
    Directory {
        /// Its path.
        path: PathBuf,
    },
    /// A file or block device that holds objects one after another.
    Device {
        /// Its path.
        path: PathBuf,
        /// Size of a new file, in bytes.
        create_bytes: Option<u64>,
    },
    /// A library of cartridge files, or a tape drive.
    Tape(TapeSpec),
    /// A bucket; credentials come from the environment or from a file (`credentials=FILE`).
    S3(Box<S3Config>),
}

/// Why a text is not the place of an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not the place of an archive: {reason}; it is DIRECTORY, dir:DIRECTORY, device:FILE[,size=8GiB], tape:DIRECTORY[,cartridges=4,size=2GiB], tape:/dev/nst0[,stage=DIRECTORY] or s3://BUCKET/PREFIX[?endpoint=URL&region=NAME&allow_http=true&credentials=FILE]"
)]
pub struct SpecError {
    /// The text.
    pub text: String,
    /// What is wrong.
    pub reason: String,
}

impl FromStr for StoreSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fail = |reason: String| SpecError { text: text.to_owned(), reason };
        let (kind, rest) = match text.split_once(':') {
            // A path may contain a colon after its first slash.
            Some((kind, rest)) if !kind.contains('/') => (kind, rest),
            _ => ("dir", text),
        };
        if rest.is_empty() {
            return Err(fail("it names no place".to_owned()));
        }
        match kind {
            "dir" => Ok(StoreSpec::Directory { path: rest.into() }),
            "device" => device(rest).map_err(fail),
            "tape" => tape(rest).map_err(fail),
            "s3" => s3(rest).map_err(fail),
            _ => Err(fail(format!("there is no kind '{kind}'"))),
        }
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreSpec::Directory { path } => write!(f, "dir:{}", path.display()),
            StoreSpec::Device { path, .. } => write!(f, "device:{}", path.display()),
            StoreSpec::Tape(tape) => write!(f, "tape:{}", tape.path.display()),
            StoreSpec::S3(config) => write!(f, "s3://{}/{}", config.bucket, config.prefix),
        }
    }
}

/// A place, and the options after it.
type Parts<'a> = (&'a str, Vec<(&'a str, &'a str)>);

fn parts(text: &str) -> Result<Parts<'_>, String> {
    let mut parts = text.split(',');
    let place = parts.next().filter(|place| !place.is_empty()).ok_or("it names no place")?;
    let options = parts.map(|part| part.split_once('=').ok_or_else(|| format!("'{part}' is not NAME=VALUE")));
    Ok((place, options.collect::<Result<_, _>>()?))
}

fn size(value: &str) -> Result<u64, String> {
    value.parse::<SizeBytes>().map(|size| size.0).map_err(|error| error.to_string())
}

fn device(text: &str) -> Result<StoreSpec, String> {
    let (place, options) = parts(text)?;
    let mut create_bytes = None;
    for (name, value) in options {
        match name {
            "size" => create_bytes = Some(size(value)?),
            _ => return Err(format!("a device has no option '{name}'")),
        }
    }
    Ok(StoreSpec::Device { path: place.into(), create_bytes })
}

fn tape(text: &str) -> Result<StoreSpec, String> {
    let (place, options) = parts(text)?;
    let mut spec = TapeSpec { path: place.into(), cartridges: None, cartridge_bytes: None, stage: None };
    for (name, value) in options {
        match name {
            "cartridges" => {
                let count = value.parse().ok().filter(|count| (1..=CARTRIDGES_MAX).contains(count));
                spec.cartridges = Some(
                    count.ok_or_else(|| format!("cartridges={value} is not from 1 to {CARTRIDGES_MAX}"))?,
                );
            }
            "size" => spec.cartridge_bytes = Some(size(value)?),
            "stage" if !value.is_empty() => spec.stage = Some(value.into()),
            _ => return Err(format!("tapes have no option '{name}'")),
        }
    }
    if spec.cartridge_bytes.is_some_and(|bytes| bytes < CARTRIDGE_BYTES_MIN) {
        return Err(format!("a cartridge has at least {}", SizeBytes(CARTRIDGE_BYTES_MIN)));
    }
    Ok(StoreSpec::Tape(spec))
}

fn s3(text: &str) -> Result<StoreSpec, String> {
    let text = text.strip_prefix("//").ok_or("a bucket is s3://BUCKET")?;
    let (place, query) = text.split_once('?').unwrap_or((text, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err("it names no bucket".to_owned());
    }
    let mut config = S3Config::new(bucket);
    prefix.trim_end_matches('/').clone_into(&mut config.prefix);
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("'{option}' is not NAME=VALUE"))?;
        let flag = || value.parse::<bool>().map_err(|_| format!("{name} is true or false, not '{value}'"));
        match name {
            "endpoint" => config.endpoint = Some(value.to_owned()),
            "region" => value.clone_into(&mut config.region),
            "credentials" if !value.is_empty() => config.credentials_file = Some(value.into()),
            "allow_http" => config.allow_http = flag()?,
            "path_style" => config.path_style = flag()?,
            _ => return Err(format!("a bucket has no option '{name}'")),
        }
    }
    Ok(StoreSpec::S3(Box::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> StoreSpec {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_kind_is_understood() {
        for text in ["/a/b", "dir:/a/b"] {
            assert_eq!(parse(text), StoreSpec::Directory { path: "/a/b".into() });
        }
        assert_eq!(parse("./a:b"), StoreSpec::Directory { path: "./a:b".into() });
        let device = |create_bytes| StoreSpec::Device { path: "/d".into(), create_bytes };
        assert_eq!(parse("device:/d"), device(None));
        assert_eq!(parse("device:/d,size=8GiB"), device(Some(8 << 30)));
        let tape = |path: &str, cartridges, cartridge_bytes, stage: Option<&str>| {
            let (path, stage) = (path.into(), stage.map(PathBuf::from));
            StoreSpec::Tape(TapeSpec { path, cartridges, cartridge_bytes, stage })
        };
        assert_eq!(parse("tape:t"), tape("t", None, None, None));
        assert_eq!(parse("tape:t,cartridges=9,size=64MiB"), tape("t", Some(9), Some(64 << 20), None));
        assert_eq!(parse("tape:/dev/nst0,stage=/s"), tape("/dev/nst0", None, None, Some("/s")));
        let text =
            "s3://bucket/a/b/?endpoint=http://127.0.0.1:9000&region=x&allow_http=true&path_style=false";
        let StoreSpec::S3(config) = parse(text) else { panic!("an object store") };
        assert_eq!((config.bucket.as_str(), config.prefix.as_str()), ("bucket", "a/b"));
        assert_eq!(config.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!((config.region.as_str(), config.allow_http, config.path_style), ("x", true, false));
        assert_eq!(config.credentials_file, None);
        let StoreSpec::S3(config) = parse("s3://bucket?credentials=/run/key") else {
            panic!("an object store")
        };
        assert_eq!(config.credentials_file, Some("/run/key".into()));
        assert!(config.access_key_id.is_none(), "credentials come from the environment");
    }

    #[test]
    fn mistakes_say_what_is_wrong_and_what_is_right() {
        for (text, reason) in [
            ("", "no place"),
            ("dir:", "no place"),
            ("floppy:/a", "no kind 'floppy'"),
            ("device:,size=1GiB", "no place"),
            ("device:/d,size=big", "not a size"),
            ("device:/d,cartridges=1", "no option 'cartridges'"),
            ("device:/d,8GiB", "not NAME=VALUE"),
            ("tape:t,cartridges=0", "from 1 to"),
            ("tape:t,size=1MiB", "at least 16 MiB"),
            ("tape:/dev/nst0,rewind=no", "no option 'rewind'"),
            ("tape:/dev/nst0,stage=", "no option 'stage'"),
            ("s3:bucket", "s3://BUCKET"),
            ("s3:///prefix", "no bucket"),
            ("s3://b?allow_http=yes", "true or false"),
            ("s3://b?secret=x", "no option 'secret'"),
        ] {
            let error = text.parse::<StoreSpec>().expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains("tape:DIRECTORY"), "{text}: {error}");
        }
    }
}
