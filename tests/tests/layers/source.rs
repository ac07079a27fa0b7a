//! One source file as the test of the layers sees it: the modules that it declares, the names that
//! it binds, and the paths that it uses.
//!
//! Tests do not count: everything with `#[cfg(test)]`, also as one of several conditions.
//! Documentation does not count either, and `pub(in path)` is not a use.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree, Visibility};

/// A path in a source, and the module (of the same file) that it is written in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UsedPath {
    /// The names of the inline modules around it, outermost first.
    pub(crate) within: Vec<String>,
    /// Its segments as written; the first may be `crate`, `self` or `super`.
    pub(crate) segments: Vec<String>,
    /// The name that it is published under, if it is a `pub use`: then it counts only if the file
    /// itself uses that name.
    pub(crate) published_as: Option<String>,
}

/// One module: a file's own, or one that is written inside it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The modules that it declares, inline or in their own files.
    pub(crate) children: BTreeSet<String>,
    /// The items that it defines.
    pub(crate) items: BTreeSet<String>,
    /// The names that its imports bind, with their paths.
    pub(crate) bindings: BTreeMap<String, Vec<String>>,
    /// The modules from which it imports all names.
    pub(crate) globs: Vec<Vec<String>>,
}

/// What a file declares and uses.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Its own module, under an empty path, and its inline modules.
    pub(crate) scopes: BTreeMap<Vec<String>, Scope>,
    /// Every path of two or more segments, and every import.
    pub(crate) paths: BTreeSet<UsedPath>,
    /// Every name that is alone or first in a path, outside of imports.
    pub(crate) names: BTreeSet<String>,
    /// Modules with their own files that only tests use.
    pub(crate) test_children: BTreeSet<String>,
}

/// Reads a source.
pub(crate) fn read(text: &str) -> syn::Result<Source> {
    let file = syn::parse_file(text)?;
    let mut reader = Reader::default();
    reader.source.scopes.entry(Vec::new()).or_default();
    reader.visit_file(&file);
    Ok(reader.source)
}

#[derive(Default)]
struct Reader {
    within: Vec<String>,
    source: Source,
}

impl Reader {
    fn scope(&mut self) -> &mut Scope {
        self.source.scopes.entry(self.within.clone()).or_default()
    }

    fn import(&mut self, tree: &UseTree, before: &mut Vec<String>, is_public: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before, is_public);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before, is_public);
                }
            }
            UseTree::Glob(_) => {
                self.scope().globs.push(before.clone());
                self.add_path(before.clone(), None);
            }
            UseTree::Name(name) => self.bind(before, &name.ident.to_string(), None, is_public),
            UseTree::Rename(name) => {
                self.bind(before, &name.ident.to_string(), Some(name.rename.to_string()), is_public);
            }
        }
    }

    fn bind(&mut self, before: &[String], name: &str, renamed: Option<String>, is_public: bool) {
        let mut segments = before.to_vec();
        if name != "self" {
            segments.push(name.to_owned());
        }
        let bound = renamed.or_else(|| segments.last().cloned()).unwrap_or_default();
        self.scope().bindings.insert(bound.clone(), segments.clone());
        self.add_path(segments, is_public.then_some(bound));
    }

    fn add_path(&mut self, segments: Vec<String>, published_as: Option<String>) {
        self.source.paths.insert(UsedPath { within: self.within.clone(), segments, published_as });
    }

    /// A path outside of imports.
    fn use_path(&mut self, segments: Vec<String>) {
        if let Some(first) = segments.first() {
            self.source.names.insert(first.clone());
        }
        if segments.len() > 1 {
            self.add_path(segments, None);
        }
    }

    /// Finds the paths in the arguments of a macro.
    fn scan(&mut self, tokens: TokenStream) {
        let mut segments: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.use_path(std::mem::take(&mut segments));
                    }
                    segments.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.use_path(std::mem::take(&mut segments));
                    colons = 0;
                    self.scan(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.use_path(std::mem::take(&mut segments));
                    colons = 0;
                }
            }
        }
        self.use_path(segments);
    }
}

impl Visit<'_> for Reader {
    fn visit_item(&mut self, item: &Item) {
        if is_for_tests(attributes(item)) {
            if let Item::Mod(module) = item
                && self.within.is_empty()
            {
                self.source.test_children.insert(module.ident.to_string());
            }
            return;
        }
        if let Some(name) = name_of(item) {
            self.scope().items.insert(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &syn::ItemMod) {
        let name = module.ident.to_string();
        self.scope().children.insert(name.clone());
        let Some((_, items)) = &module.content else { return };
        self.within.push(name);
        self.scope();
        for item in items {
            self.visit_item(item);
        }
        self.within.pop();
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        let is_public = !matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, &mut Vec::new(), is_public);
    }

    fn visit_impl_item(&mut self, item: &syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Fn(function) => &function.attrs,
            syn::ImplItem::Const(constant) => &constant.attrs,
            _ => &Vec::new(),
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.use_path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &syn::Macro) {
        self.visit_path(&called.path);
        self.scan(called.tokens.clone());
    }

    /// A visibility is not a use.
    fn visit_visibility(&mut self, _: &Visibility) {}

    /// Documentation and hints for tools are not uses.
    fn visit_attribute(&mut self, _: &Attribute) {}
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(ident.to_string())
}

/// Whether something is compiled for tests, alone or as one of several conditions.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg")
            && list.parse_args::<Meta>().is_ok_and(|condition| asks_for_tests(&condition))
    })
}

fn asks_for_tests(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if !list.path.is_ident("not") => list
            .parse_args_with(syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated)
            .is_ok_and(|conditions| conditions.iter().any(asks_for_tests)),
        _ => false,
    }
}
