//! Who writes which state: only the file that defines a struct in [`OWNED`] or [`READ_BY_OTHERS`]
//! writes the struct's fields. There are no exceptions.
//!
//! A field is written by an assignment (`x.field = `, `x.field += `), by a mutable borrow
//! (`&mut x.field`, which also covers `mem::take`, `mem::replace` and `mem::swap`), and by a
//! pattern that takes the struct apart with mutable bindings.
//!
//! How it is checked:
//!
//! - Other files cannot access a private field in a file without files below it: the compiler
//!   guarantees the rule. So a part of another struct has such fields.
//! - A field that other files can see must be a part itself: its type is in the table too. Other
//!   files call the part's methods, and the part decides what they change.
//! - A struct in [`READ_BY_OTHERS`] is plain data: its fields are no parts, and other files see
//!   them to read them. For these, calls of the methods that change a list count as writes too.
//! - In the files that can see a field, the test searches the sources for writes of a field of that
//!   name, whatever holds it. It is a different field only where the code shows that the holder has
//!   another type (`self` of another type, a name with another type written at it, or a field of
//!   such).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A struct, and the only file that writes its fields, relative to `appliance/src`.
const OWNED: &[(&str, &str)] = &[
    ("State", "volume/pool/state.rs"),
    ("Acknowledgements", "volume/pool/acknowledgements.rs"),
    ("EndedBusy", "volume/pool/ended_busy.rs"),
    ("Faults", "volume/pool/faults.rs"),
    ("IoStats", "volume/pool/io_stats.rs"),
    ("Latencies", "volume/pool/latency.rs"),
    ("ReadAhead", "volume/pool/read_ahead.rs"),
    ("PendingAck", "volume/pool/acknowledgements.rs"),
    ("PendingRead", "volume/pool/reads.rs"),
    ("ReadPlan", "volume/pool/read_plan.rs"),
    ("Reads", "volume/pool/reads.rs"),
    ("RestOfTrim", "volume/pool/trims.rs"),
    ("Rescue", "volume/pool/rescues.rs"),
    ("Rescues", "volume/pool/rescues.rs"),
    ("Starving", "volume/pool/starving.rs"),
    ("Trims", "volume/pool/trims.rs"),
    ("Problems", "volume/problems.rs"),
    ("Volume", "volume/image/volume.rs"),
    ("Volumes", "volume/image/volumes.rs"),
    ("VolumeEvents", "volume/history/events.rs"),
    ("Differences", "volume/blocks/differences.rs"),
    ("BlockRestores", "volume/blocks/restores.rs"),
    ("Synchs", "volume/history/synchs.rs"),
    ("Sessions", "volume/session/state.rs"),
    ("PresentCatalog", "volume/catalog/present.rs"),
    ("Capacity", "volume/space/capacity.rs"),
    ("Reshaping", "volume/space/reshaping.rs"),
    ("Scrubbed", "volume/space/scrubbed.rs"),
    ("Cleaner", "volume/space/cleaner.rs"),
    ("ArchiveSlot", "volume/archiving/slot.rs"),
    ("Archive", "volume/archiving/state.rs"),
    ("Alarm", "volume/archiving/alarm.rs"),
    ("Anchoring", "volume/archiving/anchoring.rs"),
    ("Anchors", "volume/archiving/anchors.rs"),
    ("Away", "volume/archiving/away.rs"),
    ("Flights", "volume/archiving/flights.rs"),
    ("Lost", "volume/archiving/losses.rs"),
    ("Objects", "volume/archiving/objects.rs"),
    ("SegmentObjects", "volume/archiving/objects.rs"),
    ("KnownObjects", "volume/archiving/objects.rs"),
    ("Recent", "volume/archiving/rate.rs"),
    ("ReportedProblem", "volume/archiving/reported.rs"),
    ("Requests", "volume/archiving/requests.rs"),
    ("Retries", "volume/archiving/retries.rs"),
    ("Sealing", "volume/archiving/sealing.rs"),
    ("Throttle", "volume/archiving/throttle.rs"),
    ("Receivers", "volume/archiving/receivers.rs"),
    ("BlocksCache", "archive/service/cache.rs"),
    ("EntriesCache", "archive/service/cache.rs"),
    ("CatalogText", "log/writer/state/catalog.rs"),
    ("CurrentSegment", "log/writer/state/current.rs"),
    ("DamageNotes", "log/writer/state/damage.rs"),
    ("Demand", "log/writer/state/demand.rs"),
    ("LogHealth", "log/writer/state/health.rs"),
    ("FirstWrites", "log/writer/state/beginning.rs"),
    ("LogIdentity", "log/writer/state/identity.rs"),
    ("RecordMemory", "log/writer/state/memory.rs"),
    ("Orders", "log/writer/state/orders.rs"),
    ("DevicePort", "log/writer/state/port.rs"),
    ("Positions", "log/writer/state/positions.rs"),
    ("RecordClock", "log/writer/state/record_clock.rs"),
    ("Records", "log/writer/state/records.rs"),
    ("Trailers", "log/writer/state/trailers.rs"),
    ("PendingTrailer", "log/writer/state/trailers.rs"),
    ("Waiters", "log/writer/state/waiters.rs"),
    ("WhyBusy", "log/writer/state/why_busy.rs"),
    ("Log", "log/writer/mod.rs"),
    ("OpenRecord", "log/record.rs"),
    ("ClosedRecord", "log/record.rs"),
    ("SegmentTable", "log/table.rs"),
    ("TrustedTime", "log/time.rs"),
    ("Walk", "log/recovery/walk.rs"),
    ("Gone", "log/recovery/gone.rs"),
    ("FoundSegment", "log/recovery/slots.rs"),
];

/// Plain data that other files read, and the only file that writes its fields.
const READ_BY_OTHERS: &[(&str, &str)] = &[("Catalog", "volume/catalog/content.rs")];

/// Methods that change a list.
const CHANGE_A_LIST: &[&str] = &[
    "append",
    "change",
    "clear",
    "dedup",
    "drain",
    "drop_first",
    "extend",
    "insert",
    "iter_mut",
    "pop",
    "push",
    "remove",
    "retain",
    "sort",
    "sort_unstable",
    "swap",
    "truncate",
];

/// A struct of the table, as its file defines it.
struct Owned {
    name: String,
    file: PathBuf,
    /// Whether it is plain data that others read.
    is_data: bool,
    /// Fields that other files can see.
    seen: Vec<SeenField>,
}

/// A field that other files than its struct's can see.
struct SeenField {
    name: String,
    /// The names of all types in its type.
    types: BTreeSet<String>,
    /// Whether it is private, and visible only because files are below its own.
    is_private: bool,
    /// The folder whose files can see it.
    by: PathBuf,
}

/// The folder of the module that a file is.
fn module_folder(file: &Path) -> PathBuf {
    match file.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs" | "lib.rs" | "main.rs") => file.parent().unwrap_or(Path::new("")).to_owned(),
        _ => file.with_extension(""),
    }
}

/// The folder whose files can see an item of a file.
fn seen_by(visibility: &syn::Visibility, file: &Path) -> PathBuf {
    let own = module_folder(file);
    let syn::Visibility::Restricted(restricted) = visibility else {
        let is_public = matches!(visibility, syn::Visibility::Public(_));
        return if is_public { PathBuf::new() } else { own };
    };
    let mut names = restricted.path.segments.iter().map(|segment| segment.ident.to_string());
    match names.next().as_deref() {
        Some("self") => own,
        Some("super") => own.parent().unwrap_or(Path::new("")).to_owned(),
        // `crate`, and the path below it.
        _ => names.collect(),
    }
}

/// The types of fields that are plain names.
#[derive(Default)]
struct FieldTypes {
    /// By file, struct and field.
    types: BTreeMap<(PathBuf, String, String), String>,
    /// The files that define a struct of a name.
    files: BTreeMap<String, BTreeSet<PathBuf>>,
}

impl FieldTypes {
    /// Adds the structs of a source.
    fn add(&mut self, file: &Path, source: &str) -> Result<(), String> {
        let parsed = syn::parse_file(source).map_err(|error| error.to_string())?;
        for item in &parsed.items {
            let syn::Item::Struct(item) = item else { continue };
            let name = item.ident.to_string();
            self.files.entry(name.clone()).or_default().insert(file.to_owned());
            for field in &item.fields {
                if let (Some(field), Some(ty)) = (&field.ident, plain_type(&field.ty)) {
                    self.types.insert((file.to_owned(), name.clone(), field.to_string()), ty);
                }
            }
        }
        Ok(())
    }

    /// The type of a field of the struct that a file refers to by a name: its own struct, or the
    /// only one.
    fn get(&self, file: &Path, name: &str, field: &str) -> Option<&String> {
        let files = self.files.get(name)?;
        let file = if files.contains(file) { file } else { files.first().filter(|_| files.len() == 1)? };
        self.types.get(&(file.to_owned(), name.to_owned(), field.to_owned()))
    }
}

/// Reads the struct `name` from the source of `file`. `has_children`: there are files below it.
fn owned(name: &str, file: &Path, source: &str, has_children: bool) -> Result<Owned, String> {
    let at = || format!("{name} in {}", file.display());
    let parsed = syn::parse_file(source).map_err(|error| format!("{}: {error}", at()))?;
    let item = parsed.items.iter().find_map(|item| match item {
        syn::Item::Struct(item) if item.ident == name => Some(item),
        _ => None,
    });
    let item = item.ok_or_else(|| format!("{}: there is no such struct", at()))?;
    let mut seen = Vec::new();
    for field in &item.fields {
        let is_private = matches!(field.vis, syn::Visibility::Inherited);
        if is_private && !has_children {
            continue;
        }
        let mut types = TypeNames::default();
        types.visit_type(&field.ty);
        let name = field.ident.as_ref().ok_or_else(|| format!("{}: a field has no name", at()))?;
        let by = seen_by(&field.vis, file);
        seen.push(SeenField { name: name.to_string(), types: types.0, is_private, by });
    }
    Ok(Owned { name: name.to_owned(), file: file.to_owned(), is_data: false, seen })
}

#[derive(Default)]
struct TypeNames(BTreeSet<String>);

impl<'ast> Visit<'ast> for TypeNames {
    fn visit_path_segment(&mut self, segment: &'ast syn::PathSegment) {
        self.0.insert(segment.ident.to_string());
        visit::visit_path_segment(self, segment);
    }
}

/// Fields that other files can see although they are not parts.
fn exposed(table: &[Owned]) -> Vec<String> {
    let parts: BTreeSet<&str> = table.iter().map(|owned| owned.name.as_str()).collect();
    let mut found = Vec::new();
    for owned in table.iter().filter(|owned| !owned.is_data) {
        let is_part = |field: &SeenField| {
            field.types.len() == 1 && field.types.iter().all(|name| parts.contains(name.as_str()))
        };
        for field in owned.seen.iter().filter(|field| !field.is_private && !is_part(field)) {
            found.push(format!(
                "{}: {}::{} can be seen by other files, and its type is no part",
                owned.file.display(),
                owned.name,
                field.name
            ));
        }
    }
    found
}

/// Writes of the table's fields in a file, as `file:line: what`.
fn foreign_writes(
    table: &[Owned],
    types: &FieldTypes,
    file: &Path,
    source: &str,
) -> Result<Vec<String>, String> {
    let parsed = syn::parse_file(source).map_err(|error| format!("{}: {error}", file.display()))?;
    let foreign = table.iter().filter(|owned| owned.file != file).collect();
    let mut search =
        Search { owned: foreign, types, file, self_type: None, names: Vec::new(), found: Vec::new() };
    search.visit_file(&parsed);
    Ok(search.found)
}

struct Search<'a> {
    /// The structs whose fields this file must not write.
    owned: Vec<&'a Owned>,
    types: &'a FieldTypes,
    file: &'a Path,
    /// The type of `self`.
    self_type: Option<String>,
    /// Names in scope with the types that are written at them, newest last.
    names: Vec<(String, String)>,
    found: Vec<String>,
}

impl Owned {
    /// Whether a file can see a field.
    fn is_seen(&self, field: &str, by: &Path) -> bool {
        self.seen.iter().any(|seen| seen.name == field && by.starts_with(&seen.by))
    }
}

impl Search<'_> {
    /// Records a place that is written: the fields on the path to it, from the last one, as far as
    /// they are in the place itself.
    fn written(&mut self, place: &syn::Expr) {
        let mut next = place;
        loop {
            match next {
                syn::Expr::Field(field) => {
                    if let syn::Member::Named(name) = &field.member {
                        self.note(&field.base, &name.to_string(), field.span().start().line);
                    }
                    next = &field.base;
                }
                syn::Expr::Index(index) => next = &index.expr,
                syn::Expr::Paren(paren) => next = &paren.expr,
                syn::Expr::Unary(unary) => next = &unary.expr,
                syn::Expr::Tuple(tuple) => {
                    for part in &tuple.elems {
                        self.written(part);
                    }
                    return;
                }
                _ => return,
            }
        }
    }

    fn note(&mut self, holder: &syn::Expr, field: &str, line: usize) {
        let holder = self.type_of(holder);
        for owned in &self.owned {
            let is_it = holder.as_ref().is_none_or(|name| *name == owned.name);
            if is_it && owned.is_seen(field, self.file) {
                self.found.push(format!(
                    "{}:{line}: {}::{field} is written",
                    self.file.display(),
                    owned.name
                ));
            }
        }
    }

    /// The type of an expression, where the code shows it.
    fn type_of(&self, expr: &syn::Expr) -> Option<String> {
        match expr {
            syn::Expr::Paren(paren) => self.type_of(&paren.expr),
            syn::Expr::Unary(unary) => self.type_of(&unary.expr),
            syn::Expr::Path(path) => {
                let name = path.path.get_ident()?.to_string();
                if name == "self" {
                    return self.self_type.clone();
                }
                self.names.iter().rev().find(|(known, _)| *known == name).map(|(_, ty)| ty.clone())
            }
            syn::Expr::Field(field) => {
                let syn::Member::Named(name) = &field.member else { return None };
                let holder = self.type_of(&field.base)?;
                self.types.get(self.file, &holder, &name.to_string()).cloned()
            }
            _ => None,
        }
    }

    /// Whether an expression is a struct: its type is known, or it has the name of the struct.
    fn is_held_by(&self, holder: &syn::Expr, owned: &str) -> bool {
        if let Some(known) = self.type_of(holder) {
            return known == owned;
        }
        let name = match holder {
            syn::Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
            syn::Expr::Field(field) => match &field.member {
                syn::Member::Named(name) => Some(name.to_string()),
                syn::Member::Unnamed(_) => None,
            },
            _ => None,
        };
        name.is_some_and(|name| name == owned.to_lowercase())
    }

    fn learn(&mut self, pattern: &syn::Pat, ty: &syn::Type) {
        if let (syn::Pat::Ident(name), Some(ty)) = (pattern, plain_type(ty)) {
            self.names.push((name.ident.to_string(), ty));
        }
    }
}

/// The name of a type without references; `None` for what is not a plain name.
fn plain_type(ty: &syn::Type) -> Option<String> {
    match ty {
        syn::Type::Reference(reference) => plain_type(&reference.elem),
        syn::Type::Paren(paren) => plain_type(&paren.elem),
        syn::Type::Path(path) => {
            let last = path.path.segments.last()?;
            matches!(last.arguments, syn::PathArguments::None).then(|| last.ident.to_string())
        }
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let before = std::mem::replace(&mut self.self_type, plain_type(&item.self_ty));
        visit::visit_item_impl(self, item);
        self.self_type = before;
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        let names = self.names.len();
        visit::visit_block(self, block);
        self.names.truncate(names);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        // Names of the previous function are out of scope.
        self.names.clear();
        for input in &signature.inputs {
            if let syn::FnArg::Typed(typed) = input {
                self.learn(&typed.pat, &typed.ty);
            }
        }
        visit::visit_signature(self, signature);
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        visit::visit_local(self, local);
        match &local.pat {
            syn::Pat::Type(typed) => self.learn(&typed.pat, &typed.ty),
            // A name that is bound again without a type hides the one with a type.
            syn::Pat::Ident(name) => {
                let name = name.ident.to_string();
                self.names.retain(|(known, _)| *known != name);
            }
            _ => {}
        }
    }

    fn visit_expr_assign(&mut self, assign: &'ast syn::ExprAssign) {
        self.written(&assign.left);
        visit::visit_expr_assign(self, assign);
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        use syn::BinOp::{
            AddAssign, BitAndAssign, BitOrAssign, BitXorAssign, DivAssign, MulAssign, RemAssign, ShlAssign,
            ShrAssign, SubAssign,
        };
        if matches!(
            binary.op,
            AddAssign(_)
                | SubAssign(_)
                | MulAssign(_)
                | DivAssign(_)
                | RemAssign(_)
                | BitXorAssign(_)
                | BitAndAssign(_)
                | BitOrAssign(_)
                | ShlAssign(_)
                | ShrAssign(_)
        ) {
            self.written(&binary.left);
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if CHANGE_A_LIST.contains(&call.method.to_string().as_str())
            && let syn::Expr::Field(field) = &*call.receiver
            && let syn::Member::Named(name) = &field.member
        {
            let (name, line) = (name.to_string(), call.span().start().line);
            for owned in self.owned.iter().filter(|owned| owned.is_data) {
                if self.is_held_by(&field.base, &owned.name) && owned.is_seen(&name, self.file) {
                    self.found.push(format!(
                        "{}:{line}: {}::{name} is changed",
                        self.file.display(),
                        owned.name
                    ));
                }
            }
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_reference(&mut self, reference: &'ast syn::ExprReference) {
        if reference.mutability.is_some() {
            self.written(&reference.expr);
        }
        visit::visit_expr_reference(self, reference);
    }

    fn visit_pat_struct(&mut self, pattern: &'ast syn::PatStruct) {
        let name = pattern.path.segments.last().map(|last| last.ident.to_string());
        for owned in self.owned.clone() {
            let is_seen = owned.seen.iter().any(|field| self.file.starts_with(&field.by));
            if is_seen && Some(&owned.name) == name.as_ref() {
                let line = pattern.span().start().line;
                self.found.push(format!("{}:{line}: {} is taken apart", self.file.display(), owned.name));
            }
        }
        visit::visit_pat_struct(self, pattern);
    }
}

/// The Rust files of a folder, relative to `root`.
fn sources(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
        }
    }
    found.sort();
    Ok(())
}

/// Whether there are files below a file: those can see its private items.
fn has_children(root: &Path, file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "mod.rs") || root.join(file).with_extension("").is_dir()
}

#[test]
fn no_field_is_written_from_another_file() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../appliance/src");
    let read = |file: &Path| {
        std::fs::read_to_string(root.join(file)).map_err(|error| format!("{}: {error}", file.display()))
    };
    let mut table = Vec::new();
    for &(name, file) in OWNED {
        let file = Path::new(file);
        table.push(owned(name, file, &read(file)?, has_children(&root, file))?);
    }
    for &(name, file) in READ_BY_OTHERS {
        let file = Path::new(file);
        let owned = owned(name, file, &read(file)?, has_children(&root, file))?;
        table.push(Owned { is_data: true, ..owned });
    }
    let mut found = exposed(&table);
    let mut files = Vec::new();
    sources(&root, &root, &mut files).map_err(|error| error.to_string())?;
    assert!(files.len() > 100, "the sources are somewhere else");
    let mut types = FieldTypes::default();
    for file in &files {
        types.add(file, &read(file)?)?;
    }
    // Files of unit tests set the state that they test.
    let is_tests = |file: &PathBuf| file.file_name().is_some_and(|name| name == "tests.rs");
    for file in files.into_iter().filter(|file| !is_tests(file)) {
        found.extend(foreign_writes(&table, &types, &file, &read(&file)?)?);
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    Ok(())
}

/// The writes that the checker finds in a text, with a `State` that has the parts `reads` and
/// `trims`.
fn found_in(source: &str) -> Vec<String> {
    let state = "struct State { pub(crate) reads: Reads, pub(crate) trims: Trims, own: u64 }";
    let table = ["State", "Reads", "Trims"].map(|name| {
        let source = format!("{state} struct Reads {{ list: Vec<u8> }} struct Trims {{ rest: u8 }}");
        owned(name, Path::new("state.rs"), &source, false).expect("it is a struct")
    });
    assert_eq!(exposed(&table), Vec::<String>::new());
    let mut types = FieldTypes::default();
    let others = "struct Volume { stats: Stats, state: State } struct Stats { reads: u64 }";
    types.add(Path::new("volume.rs"), others).expect("it is Rust");
    foreign_writes(&table, &types, Path::new("other.rs"), source).expect("it is Rust")
}

#[test]
fn every_way_to_write_is_found() {
    for body in [
        "state.reads = Reads::default();",
        "state.reads += 1;",
        "(state.reads, x) = y;",
        "state.reads[3] = 1;",
        "state.reads.list = 1;",
        "*state.reads = 1;",
        "(*state).reads = other;",
        "std::mem::take(&mut state.reads);",
        "std::mem::swap(&mut state.trims, &mut other);",
        "fetch(&mut self.state.borrow_mut().reads);",
        "let State { reads, .. } = &mut *state;",
        "if let Some(State { reads: Reads { list }, .. }) = state {}",
        "let closure = || { state.trims = x; };",
    ] {
        assert!(!found_in(&format!("fn f() {{ {body} }}")).is_empty(), "{body}");
    }
    let of_field = "impl Volume { fn f(&mut self) { self.state.reads = 1; } }";
    assert_eq!(found_in(of_field), ["other.rs:1: State::reads is written"]);
    let of_self = "impl State { fn f(&mut self) { self.trims = Trims::default(); } }";
    assert_eq!(found_in(of_self), ["other.rs:1: State::trims is written"]);
}

#[test]
fn what_is_no_write_of_the_state_is_not_found() {
    for source in [
        "fn f(state: &mut State) { state.reads.add(1); let x = &state.reads; x == state.trims; }",
        "fn f(catalog: &mut Catalog) { catalog.reads = 1; }",
        "fn f() { let mut catalog: Catalog = x; catalog.reads = 1; }",
        "impl Catalog { fn f(&mut self) { self.reads = 1; } }",
        "fn f() { state.own += 1; }",
        "fn f() { let Catalog { reads, .. } = x; }",
        "impl Volume { fn f(&mut self) { self.stats.reads += 1; } }",
    ] {
        assert_eq!(found_in(source), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn a_list_of_plain_data_is_changed_by_its_file_alone() {
    let data = owned("Catalog", Path::new("c.rs"), "struct Catalog { pub(crate) images: Vec<u8> }", false);
    let table = [Owned { is_data: true, ..data.expect("a struct") }];
    assert_eq!(exposed(&table), Vec::<String>::new());
    let found = |body: &str| {
        let source = format!("fn f(now: &mut Catalog, other: &mut Other) {{ {body} }}");
        foreign_writes(&table, &FieldTypes::default(), Path::new("other.rs"), &source)
            .expect("it is Rust")
            .len()
    };
    for body in [
        "catalog.images.push(1);",
        "self.catalog.images.retain(|_| true);",
        "now.images.change(a, b);",
        "catalog.images = x;",
        "sort(&mut now.images);",
    ] {
        assert_eq!(found(body), 1, "{body}");
    }
    for body in
        ["other.images.push(1);", "state.images.push(1);", "catalog.images.iter();", "now.images.get(1);"]
    {
        assert_eq!(found(body), 0, "{body}");
    }
}

#[test]
fn a_type_that_is_written_at_a_name_does_not_hide_a_write() {
    let hidden = "fn f(x: &mut Catalog) { let x = state; x.reads = 1; }";
    assert_eq!(found_in(hidden), ["other.rs:1: State::reads is written"]);
    let next = "fn f(x: &mut Catalog) {} fn g() { x.reads = 1; }";
    assert_eq!(found_in(next), ["other.rs:1: State::reads is written"]);
}

#[test]
fn a_file_sees_what_the_visibility_says() {
    let by = |visibility: &str, file: &str| {
        let visibility: syn::Visibility = syn::parse_str(visibility).expect("a visibility");
        seen_by(&visibility, Path::new(file)).display().to_string()
    };
    assert_eq!(by("pub", "a/b.rs"), "");
    assert_eq!(by("pub(crate)", "a/b.rs"), "");
    assert_eq!(by("pub(in crate::a)", "a/b/c.rs"), "a");
    assert_eq!(by("pub(super)", "a/b/c.rs"), "a/b");
    assert_eq!(by("pub(super)", "a/b/mod.rs"), "a");
    assert_eq!(by("", "a/b/mod.rs"), "a/b");
    assert_eq!(by("", "a/b/c.rs"), "a/b/c");
}

#[test]
fn a_field_that_others_see_must_be_a_part() {
    let source = "struct State { pub(super) count: u64, pub(super) list: Vec<Part>, part: Part, own: u8 }\n\
                  struct Part { pub(super) raw: Option<u8> }";
    let table: Vec<Owned> = ["State", "Part"]
        .map(|name| owned(name, Path::new("state.rs"), source, false).expect("it is a struct"))
        .into();
    let found = exposed(&table);
    assert_eq!(found.len(), 3, "{found:?}");
    // Private fields count as visible where files are below their own.
    let below = owned("Part", Path::new("room/mod.rs"), "struct Part { raw: u8 }", true).expect("a struct");
    let written = |file: &str| {
        let table = std::slice::from_ref(&below);
        foreign_writes(table, &FieldTypes::default(), Path::new(file), "fn f() { part.raw = 1; }")
    };
    assert_eq!(written("room/child.rs").expect("it is Rust"), ["room/child.rs:1: Part::raw is written"]);
    assert_eq!(written("elsewhere.rs").expect("it is Rust"), Vec::<String>::new());
    assert!(owned("Gone", Path::new("state.rs"), source, false).is_err());
}
