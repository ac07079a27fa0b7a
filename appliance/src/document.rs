//! Compares `docs/FORMAT.md` with the code. Each file that defines a format has a unit test that
//! calls this module; it is compiled for tests only.
//!
//! | macro or function | what it compares |
//! |---|---|
//! | [`layout!`] | a table of bytes with a `#[repr(C)]` type: each row is one field, with its offset and its size, and the fields cover the type without a gap |
//! | [`numbers!`] | numbers in the text with constants |
//! | [`check_keys`] | a table of JSON keys with what `serde` writes and requires |
//! | [`check_says`] | a sentence with the document |
//!
//! A row that is missing, added or changed is an error on either side. The tests at the end of this
//! file prove that: they change a copy of the document and of the fields.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The document.
pub(crate) const FORMAT: &str = include_str!("../../docs/FORMAT.md");

/// The text directly before each table of bytes. Each table needs a [`layout!`] in the file of its
/// type.
const TABLES: [&str; 19] = [
    "## 4. Superblock",
    "## 5. Segment header",
    "## 6. Record",
    "### Entry",
    "Head, 64 bytes, at the first byte of the trailer area",
    "Line, 24 bytes.",
    "### Header",
    "### Digest frame",
    "Superblock, the same in blocks 0 and 1",
    "Extent header, two copies",
    "Label, header and trailer are blocks of 512 bytes",
    "### Increment header",
    "### Increment chunk",
    "### Increment entry",
    "### Increment tail",
    "### Head of an anchor",
    "### Row of a part",
    "### Part of an anchor",
    "### Row of a frame",
];

/// A field of a type.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    /// Its name in the code.
    pub(crate) name: &'static str,
    /// Where it begins, in bytes.
    pub(crate) offset: usize,
    /// Its length in bytes.
    pub(crate) len: usize,
    /// What its row must contain.
    pub(crate) words: &'static str,
}

/// The size of the type that a reference points to.
pub(crate) fn len_of<T, U>(_: impl Fn(&T) -> &U) -> usize {
    size_of::<U>()
}

/// A unit test: the table after a text of the document has the fields of a type, and each row has
/// the words given for it. With `magic`, the first row has that magic. The table in the comment of
/// the type is compared as well, if there is one.
macro_rules! layout {
    ($test:ident, $before:literal, $raw:ident { $($field:ident: $words:literal),* $(,)? } $(, magic $magic:expr)?) => {
        #[test]
        fn $test() {
            let fields = [$(crate::document::Field {
                name: stringify!($field),
                offset: core::mem::offset_of!($raw, $field),
                len: crate::document::len_of(|raw: &$raw| &raw.$field),
                words: $words,
            }),*];
            let document = crate::document::FORMAT;
            crate::document::check_table(document, $before, &fields, size_of::<$raw>()).expect("the document");
            crate::document::check_comment(file!(), stringify!($raw), &fields, size_of::<$raw>());
            $(crate::document::check_magic(document, $before, &$magic).expect("the magic");)?
        }
    };
}
pub(crate) use layout;

/// A unit test: the document contains each phrase, with the constant in place of `{}`. `{KiB}`,
/// `{MiB}` and `{GiB}` are replaced by the constant in these units.
macro_rules! numbers {
    ($test:ident, $($value:expr => $phrase:literal),* $(,)?) => {
        #[test]
        #[allow(clippy::cast_lossless, reason = "constants of any width are compared")]
        fn $test() {
            $(crate::document::check_number(crate::document::FORMAT, $phrase, $value as u64)
                .expect(stringify!($value));)*
        }
    };
}
pub(crate) use numbers;

/// The lines of the first table after `before` whose head begins with `head`, without the head.
fn table<'a>(document: &'a str, before: &str, head: &str) -> Result<Vec<&'a str>, String> {
    let at = document.find(before).ok_or_else(|| format!("the document does not say {before:?}"))?;
    let mut lines = document[at..].lines().skip_while(|line| !line.starts_with(head));
    let columns = |line: &str| line.matches('|').count();
    let columns_of_head = lines.next().map(columns);
    let rows: Vec<&str> = lines.take_while(|line| line.starts_with('|')).skip(1).collect();
    if rows.is_empty() || rows.iter().any(|row| Some(columns(row)) != columns_of_head) {
        return Err(format!("no whole table that begins with {head} follows {before:?}"));
    }
    Ok(rows)
}

/// Offset, size and the rest of a row; `None` if one of the two is not a number.
fn row(line: &str) -> Option<(usize, usize, &str)> {
    let mut cells = line.strip_prefix("| ")?.splitn(3, " | ");
    Some((cells.next()?.parse().ok()?, cells.next()?.parse().ok()?, cells.next()?))
}

/// Compares a table with a type.
///
/// # Errors
/// The first difference.
pub(crate) fn check_table(
    document: &str,
    before: &str,
    fields: &[Field],
    type_bytes: usize,
) -> Result<(), String> {
    check_rows(&table(document, before, "| offset | size | field")?, fields, type_bytes, true)
}

fn check_rows(lines: &[&str], fields: &[Field], type_bytes: usize, words: bool) -> Result<(), String> {
    let mut end = 0;
    for field in fields {
        if field.offset != end {
            return Err(format!("a field is missing before `{}` in the list of the test", field.name));
        }
        end += field.len;
    }
    if end != type_bytes {
        return Err(format!("the fields have {end} bytes, and the type has {type_bytes}"));
    }
    let rows: Vec<_> = lines.iter().filter_map(|line| row(line)).collect();
    for (field, row) in fields.iter().zip(&rows) {
        let &(offset, len, text) = row;
        if (offset, len) != (field.offset, field.len) {
            return Err(format!("the row of `{}` has offset {offset}, size {len}: {field:?}", field.name));
        }
        if words && !text.contains(field.words) {
            return Err(format!("the row of `{}` does not say {:?}: {text}", field.name, field.words));
        }
    }
    if rows.len() != fields.len() {
        return Err(format!("{} rows and {} fields", rows.len(), fields.len()));
    }
    Ok(())
}

/// Compares the table in the comment of a type with the type, if the comment has one.
pub(crate) fn check_comment(file: &str, type_name: &str, fields: &[Field], type_bytes: usize) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = std::fs::read_to_string(root.join(file)).expect("the source");
    let struct_at = source
        .lines()
        .position(|line| line.trim_start_matches("pub ").starts_with(&format!("struct {type_name} ")))
        .unwrap_or_else(|| panic!("{file} has no struct {type_name}"));
    let lines: Vec<&str> = source.lines().take(struct_at).collect();
    let comment = lines.iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
    let mut comment: Vec<&str> = comment.filter_map(|line| line.strip_prefix("/// ")).collect();
    comment.reverse();
    if comment.iter().any(|line| line.starts_with("| offset")) {
        check_rows(&comment, fields, type_bytes, false)
            .unwrap_or_else(|error| panic!("{file}, the comment of {type_name}: {error}"));
    }
}

/// Compares the magic in the first row of a table.
///
/// # Errors
/// If the row has another one, or none.
pub(crate) fn check_magic(document: &str, before: &str, magic: &[u8]) -> Result<(), String> {
    let rows = table(document, before, "| offset | size | field")?;
    let wanted = format!("`{}`", String::from_utf8_lossy(magic));
    if rows[0].contains("magic") && rows[0].contains(&wanted) {
        return Ok(());
    }
    Err(format!("the first row after {before:?} does not name the magic {wanted}: {}", rows[0]))
}

/// The text with each run of white space as one space.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A number with commas between its thousands, as the document has them.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Finds a phrase with a number in it.
///
/// # Errors
/// If the document does not contain it.
pub(crate) fn check_number(document: &str, phrase: &str, value: u64) -> Result<(), String> {
    let units = [("{}", 0), ("{KiB}", 10), ("{MiB}", 20), ("{GiB}", 30)];
    let (place, bits) = units.into_iter().find(|(place, _)| phrase.contains(place)).ok_or("no number")?;
    if value >> bits << bits != value {
        return Err(format!("{value} is not a whole number of {place}"));
    }
    let document = unwrapped(document);
    let value = value >> bits;
    let texts = [value.to_string(), grouped(value)];
    let mut phrases = texts.iter().map(|text| phrase.replace(place, text));
    if phrases.any(|phrase| document.contains(&phrase)) {
        return Ok(());
    }
    Err(format!("the document does not say {:?}", phrase.replace(place, &texts[1])))
}

/// Checks that the document contains this phrase.
pub(crate) fn check_says(phrase: &str) {
    assert!(unwrapped(FORMAT).contains(&unwrapped(phrase)), "the document does not say {phrase:?}");
}

/// The rows of the table whose head begins with `head`, as cells without white space around them.
pub(crate) fn rows_of(before: &str, head: &str) -> Vec<Vec<&'static str>> {
    let rows = table(FORMAT, before, head).expect("a table");
    let cells = |row: &'static str| row.trim_matches('|').split('|').map(str::trim).collect();
    rows.into_iter().map(cells).collect()
}

/// Compares a table of JSON keys with a value that has all of them. The keys and their order must
/// be the same, and a key may be absent exactly if its row says "optional" or "null or".
pub(crate) fn check_keys<T: Serialize + DeserializeOwned>(before: &str, head: &str, value: &T) {
    check_keys_in(FORMAT, before, head, value).unwrap_or_else(|error| panic!("{before}: {error}"));
}

fn check_keys_in<T: Serialize + DeserializeOwned>(
    document: &str,
    before: &str,
    head: &str,
    value: &T,
) -> Result<(), String> {
    let rows = table(document, before, head)?;
    let Ok(Value::Object(map)) = serde_json::to_value(value) else { return Err("no object".to_owned()) };
    let keys: Vec<String> = map.keys().map(|key| format!("`{key}`")).collect();
    let named: Vec<&str> = rows.iter().filter_map(|row| row.split('|').nth(1).map(str::trim)).collect();
    if keys != named {
        return Err(format!("the code has the keys {keys:?}, and the document {named:?}"));
    }
    for (row, key) in rows.iter().zip(map.keys()) {
        let mut map = map.clone();
        map.remove(key);
        let is_optional = serde_json::from_value::<T>(Value::Object(map)).is_ok();
        if is_optional != (row.contains("optional") || row.contains("null or")) {
            return Err(format!("the code can read it without `{key}`: {is_optional}; the document: {row}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Every source file of the crate except this one.
    fn sources() -> Vec<String> {
        let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut sources = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|name| name == "rs") && !path.ends_with("document.rs")
                {
                    sources.push(std::fs::read_to_string(path).expect("UTF-8"));
                }
            }
        }
        sources
    }

    #[test]
    fn every_table_of_bytes_is_compared_with_a_type() {
        let sources = sources();
        let mut tables = Vec::new();
        for before in TABLES {
            assert_eq!(FORMAT.matches(before).count(), 1, "{before:?} is in the document once");
            let call = format!("\"{before}\"");
            assert!(sources.iter().any(|source| source.contains(&call)), "no layout! for {before:?}");
            let at = FORMAT.find(before).expect("it is there");
            tables.push(at + FORMAT[at..].find("| offset | size | field").expect("a table"));
        }
        tables.dedup();
        assert_eq!(tables.len(), TABLES.len(), "two texts lead to one table");
        let all = FORMAT.match_indices("\n| offset | size | field").count();
        // The page of snapshots has no type; `volume/catalog/snapshots.rs` compares it with a page.
        assert_eq!(all, TABLES.len() + 1, "a table has no layout!");
    }

    /// Constants that the document names for another reason than their value.
    const NOT_COMPARED: [&str; 1] = ["ID_OBJECT"];

    #[test]
    fn every_constant_that_the_document_names_is_compared() {
        let sources = sources();
        let is_name = |word: &&str| {
            word.contains('_')
                && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        };
        let quoted = FORMAT.split('`').skip(1).step_by(2);
        let words = quoted.flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
        let names: std::collections::BTreeSet<&str> = words.filter(is_name).collect();
        assert!(names.len() > 25, "{names:?}");
        for name in names.into_iter().filter(|name| !NOT_COMPARED.contains(name)) {
            let is_word = |value: &str| {
                value.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
            };
            let is_compared = |line: &str| line.split_once(" => \"").is_some_and(|(value, _)| is_word(value));
            let compared = sources.iter().any(|source| source.lines().any(is_compared));
            assert!(compared, "{name} is not compared");
        }
    }

    const DOCUMENT: &str = "# A\n\n| offset | size | field | valid |\n|---|---|---|---|\n\
        | 0 | 8 | magic | `ABCDEFGH` |\n| 8 | 4 | version | 1 |\n| 12 | 4 | CRC32C of bytes 0 to 11 | |\n\
        | | rest | zero | |\n\nAt most 1,024\nlines, and 64 MiB.\n";

    fn fields() -> Vec<Field> {
        let field = |name, offset, len, words| Field { name, offset, len, words };
        vec![field("magic", 0, 8, "magic"), field("version", 8, 4, "version"), field("crc", 12, 4, "CRC32C")]
    }

    #[test]
    fn a_changed_row_is_found() {
        let check = |document: &str| check_table(document, "# A", &fields(), 16);
        assert_eq!(check(DOCUMENT), Ok(()));
        for (from, to) in [
            ("| 8 | 4 | version", "| 9 | 4 | version"),
            ("| 8 | 4 | version", "| 8 | 8 | version"),
            ("| 8 | 4 | version", "| 8 | 4 | epoch"),
            ("| 8 | 4 | version | 1 |\n", ""),
            ("| 8 | 4 | version | 1 |\n", "| 8 | 4 | version | 1 |\n| 8 | 4 | version | 1 |\n"),
            ("| 8 | 4 | version | 1 |", "| 8 | 4 | version |"),
            ("| | rest", "| 16 | 4 | more | |\n| | rest"),
            ("# A", "# B"),
        ] {
            let changed = DOCUMENT.replacen(from, to, 1);
            assert_ne!(changed, DOCUMENT);
            assert!(check(&changed).is_err(), "{from} became {to}");
        }
    }

    /// Each number of each table of the document itself, one at a time.
    #[test]
    fn a_changed_row_of_the_document_is_found() {
        for before in TABLES {
            let rows = table(FORMAT, before, "| offset | size | field").expect("a table");
            let of = |line: &&str| {
                let (offset, len, _) = row(line)?;
                Some(Field { name: "f", offset, len, words: "" })
            };
            let fields: Vec<Field> = rows.iter().filter_map(of).collect();
            let end = fields.last().map_or(0, |field| field.offset + field.len);
            assert_eq!(check_table(FORMAT, before, &fields, end), Ok(()), "{before}");
            for (index, line) in rows.iter().enumerate() {
                let Some((offset, len, rest)) = row(line) else { continue };
                for changed in [
                    format!("| {} | {len} | {rest}", offset + 1),
                    format!("| {offset} | {} | {rest}", len + 1),
                ] {
                    let mut rows = rows.clone();
                    rows[index] = &changed;
                    assert!(check_rows(&rows, &fields, end, true).is_err(), "{before}: {changed}");
                }
            }
        }
    }

    #[test]
    fn a_changed_field_is_found() {
        let check = |fields: &[Field], bytes| check_table(DOCUMENT, "# A", fields, bytes);
        let with = |change: &dyn Fn(&mut Vec<Field>)| {
            let mut fields = fields();
            change(&mut fields);
            let bytes = fields.last().map_or(0, |field| field.offset + field.len);
            check(&fields, bytes)
        };
        assert_eq!(with(&|_| {}), Ok(()));
        assert!(check(&fields(), 17).is_err(), "the type has more");
        assert!(with(&|fields| fields.swap(1, 2)).is_err());
        assert!(
            with(&|fields| {
                fields.remove(1);
            })
            .is_err()
        );
        assert!(
            with(&|fields| {
                fields.pop();
            })
            .is_err()
        );
        assert!(with(&|fields| fields[2].len = 8).is_err());
        assert!(with(&|fields| (fields[1].len, fields[2].offset) = (8, 16)).is_err());
        assert!(with(&|fields| fields[1].words = "epoch").is_err());
    }

    #[test]
    fn a_changed_magic_or_number_is_found() {
        assert_eq!(check_magic(DOCUMENT, "# A", b"ABCDEFGH"), Ok(()));
        assert!(check_magic(DOCUMENT, "# A", b"ABCDEFGI").is_err());
        assert_eq!(check_number(DOCUMENT, "At most {} lines", 1024), Ok(()));
        assert!(check_number(DOCUMENT, "At most {} lines", 1025).is_err());
        assert_eq!(check_number(DOCUMENT, "and {MiB} MiB.", 64 << 20), Ok(()));
        assert!(check_number(DOCUMENT, "and {MiB} MiB.", (64 << 20) + 1).is_err());
        assert!(check_number(DOCUMENT, "At most 1,024", 1024).is_err(), "no place for the number");
        assert_eq!(grouped(1_048_576), "1,048,576");
        assert_eq!(grouped(999), "999");
    }

    #[derive(Serialize, Deserialize)]
    struct Keys {
        id: u64,
        #[serde(default)]
        label: String,
    }

    #[test]
    fn a_changed_key_is_found() {
        let value = Keys { id: 1, label: String::new() };
        let document = "# B\n\n| key | type |\n|---|---|\n| `id` | number |\n| `label` | text; optional |\n";
        let check = |document: &str| check_keys_in(document, "# B", "| key", &value);
        assert_eq!(check(document), Ok(()));
        for (from, to) in [
            ("`id`", "`number`"),
            ("| `id` | number |\n", ""),
            ("| `id` | number |", "| `id` | optional |"),
            ("; optional", ""),
            ("| `label`", "| `more` | text |\n| `label`"),
        ] {
            assert!(check(&document.replacen(from, to, 1)).is_err(), "{from} became {to}");
        }
    }
}
