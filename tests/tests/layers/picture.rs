//! The graph of the imports: files, and which file uses which.
//!
//! A path is followed to the file that defines what it names, through `pub use` and through imports
//! of modules. So a `mod.rs` that only publishes the names of its children uses none of them.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{self, Scope, Source};

/// How many re-exports are followed before a path is given up.
const HOPS_MAX: usize = 16;

/// Which file uses which, and by which path.
pub(crate) type Uses = BTreeMap<String, BTreeMap<String, String>>;

/// A module, its file and its names.
struct Module {
    file: String,
    scope: Scope,
}

/// All modules of a crate, by their paths.
pub(crate) struct Picture {
    modules: BTreeMap<Vec<String>, Module>,
    sources: BTreeMap<String, (Vec<String>, Source)>,
}

impl Picture {
    /// Draws the graph of these files: their paths relative to the folder of the sources, and their
    /// texts. Files that only tests use are left out.
    ///
    /// # Errors
    /// A text is not valid Rust.
    pub(crate) fn draw(files: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut sources = BTreeMap::new();
        let mut tests: BTreeSet<Vec<String>> = BTreeSet::new();
        for (file, text) in files {
            let source = source::read(text).map_err(|error| format!("{file}: {error}"))?;
            let path = module_path(file);
            tests.extend(source.test_children.iter().map(|child| joined(&path, child)));
            sources.insert(file.clone(), (path, source));
        }
        sources.retain(|file, (path, _)| {
            let is_test = file.split(['/', '.']).any(|part| part == "tests");
            !is_test && !tests.iter().any(|test| path.starts_with(test))
        });
        let mut modules = BTreeMap::new();
        for (file, (path, source)) in &mut sources {
            for (within, scope) in std::mem::take(&mut source.scopes) {
                let path = path.iter().chain(&within).cloned().collect();
                modules.insert(path, Module { file: file.clone(), scope });
            }
        }
        Ok(Picture { modules, sources })
    }

    /// Which file uses which.
    pub(crate) fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for (file, (path, source)) in &self.sources {
            let used = uses.entry(file.clone()).or_default();
            for found in &source.paths {
                if found.published_as.as_ref().is_some_and(|name| !source.names.contains(name)) {
                    continue;
                }
                let module = path.iter().chain(&found.within).cloned().collect();
                let Some(target) = self.absolute(&module, &found.segments) else { continue };
                if let Some(other) = self.find(target, 0)
                    && other != *file
                {
                    used.entry(other).or_insert_with(|| found.segments.join("::"));
                }
            }
        }
        uses
    }

    /// A path relative to the root; `None` if it leads out of the crate.
    fn absolute(&self, module: &Vec<String>, segments: &[String]) -> Option<Vec<String>> {
        let mut at = module.clone();
        let mut rest = segments;
        match rest.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let scope = &self.modules.get(module)?.scope;
                if !scope.children.contains(first) {
                    let bound = scope.bindings.get(first)?;
                    // A name of another crate is bound to itself.
                    if bound.first().is_some_and(|bound| bound == first) {
                        return None;
                    }
                    at = self.absolute(module, bound)?;
                    rest = &rest[1..];
                }
            }
        }
        at.extend(rest.iter().cloned());
        Some(at)
    }

    /// The file that defines what a path from the root names; `None` for a module as such, which
    /// only gives its name to the paths through it.
    fn find(&self, path: Vec<String>, hops: usize) -> Option<String> {
        let depth = (0..=path.len()).rev().find(|&depth| self.modules.contains_key(&path[..depth]))?;
        let module = &self.modules[&path[..depth]];
        let name = path.get(depth)?;
        if module.scope.items.contains(name) || hops >= HOPS_MAX {
            return Some(module.file.clone());
        }
        let owner = path[..depth].to_vec();
        let from_binding = module.scope.bindings.get(name).and_then(|bound| self.absolute(&owner, bound));
        if let Some(mut target) = from_binding {
            target.extend(path[depth + 1..].iter().cloned());
            return self.find(target, hops + 1);
        }
        for glob in &module.scope.globs {
            let target = self.absolute(&owner, glob);
            if let Some(known) = target.as_ref().and_then(|target| self.modules.get(target))
                && (known.scope.items.contains(name) || known.scope.bindings.contains_key(name))
            {
                return self.find(joined(&target.unwrap_or_default(), name), hops + 1);
            }
        }
        Some(module.file.clone())
    }

    /// The files in the graph.
    pub(crate) fn files(&self) -> impl Iterator<Item = &String> {
        self.sources.keys()
    }
}

fn joined(path: &[String], name: &str) -> Vec<String> {
    path.iter().cloned().chain([name.to_owned()]).collect()
}

/// The module that a file holds.
fn module_path(file: &str) -> Vec<String> {
    let mut path: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

/// The groups of files in which each file uses each other one, directly or through others: circles.
pub(crate) fn circles(uses: &Uses) -> BTreeSet<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        uses.keys().map(|file| (file, reachable(uses, file))).collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reached {
        if others.contains(file) {
            let back = |other: &&&String| reached.get(**other).is_some_and(|back| back.contains(file));
            circles.insert(others.iter().filter(back).map(|other| (*other).clone()).collect());
        }
    }
    circles
}

fn reachable<'a>(uses: &'a Uses, file: &String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&String> = uses.get(file).into_iter().flat_map(BTreeMap::keys).collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(uses.get(next).into_iter().flat_map(BTreeMap::keys));
        }
    }
    reached
}
