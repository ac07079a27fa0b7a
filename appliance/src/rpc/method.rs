//! The registry of methods, and how one is executed.
//!
//! Parameters are decoded on the connection's thread, so a bad call never reaches the reactor.
//! Methods that access the pool run as a task of the reactor that owns it. Methods that do not need
//! the reactor answer at once, even when the reactor does not answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::app::App;
use super::error::RpcError;
use super::idle::IdleReactor;
use super::lists::{ListTurn, ListTurns, Reading};
use super::params;
use super::protocol::{Dispatch, ResultText};
use crate::audit::{self, Caller};
use crate::manage::ArchiveManager;
use crate::reactor::ReactorHandle;
use crate::volume::VolumeError;

/// How long a call waits for the reactor by default. It is less than the 60 s after which SPDK's
/// client gives up, so that the client receives the reason.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(55);

/// The maximum edit distance between an unknown method name and the suggestion.
const MAX_SUGGESTION_EDITS: usize = 3;

/// When a method may be called (SPDK's two states; varve never waits in the first).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Only before `framework_start_init`. In varve this phase has ended when the command plane
    /// answers.
    Startup,
    /// While the appliance runs.
    Runtime,
}

type Handler = Box<dyn Fn(&Registry, Map<String, Value>) -> Result<ResultText, RpcError> + Send + Sync>;

/// One method.
pub struct Method {
    name: &'static str,
    description: &'static str,
    phase: Phase,
    /// Whether it changes something. If so, the audit log records the caller.
    changes: bool,
    handler: Handler,
}

impl Method {
    /// A method that runs on the connection's thread. It may block, but must not depend on a prompt
    /// answer of the reactor.
    pub fn direct<P, T>(
        name: &'static str,
        description: &'static str,
        run: impl Fn(&Registry, P) -> Result<T, RpcError> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        T: Serialize,
    {
        let handler: Handler =
            Box::new(move |registry, params| to_text(run(registry, decode(name, params)?)?));
        Method { name, description, phase: Phase::Runtime, changes: false, handler }
    }

    /// A method that writes a list, on the connection's thread. Only a few run at once: each has
    /// the text of its list in memory.
    pub(super) fn list<P>(
        name: &'static str,
        description: &'static str,
        run: impl Fn(&Registry, P) -> Result<ResultText, RpcError> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
    {
        let handler: Handler = Box::new(move |registry, params| {
            let params = decode(name, params)?;
            let _turn = registry.list_turn()?;
            run(registry, params)
        });
        Method { name, description, phase: Phase::Runtime, changes: false, handler }
    }

    /// A method that runs on the reactor and ends within one turn.
    pub fn on_reactor<P, T>(
        name: &'static str,
        description: &'static str,
        run: impl Fn(&App, P) -> Result<T, RpcError> + Clone + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        T: Serialize + Send + 'static,
    {
        let handler: Handler = Box::new(move |registry, params| {
            let params: P = decode(name, params)?;
            let run = run.clone();
            to_text(registry.on_reactor(name, move |app| std::future::ready(run(&app, params)))?)
        });
        Method { name, description, phase: Phase::Runtime, changes: false, handler }
    }

    /// A method that runs as a task of the reactor.
    pub fn task<P, T, F>(
        name: &'static str,
        description: &'static str,
        run: impl Fn(App, P) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        T: Serialize + Send + 'static,
        F: Future<Output = Result<T, RpcError>> + 'static,
    {
        let handler: Handler = Box::new(move |registry, params| {
            let params: P = decode(name, params)?;
            let run = run.clone();
            to_text(registry.on_reactor(name, move |app| run(app, params))?)
        });
        Method { name, description, phase: Phase::Runtime, changes: false, handler }
    }

    /// Marks the method as one that changes something: every call is recorded, see [`audit`].
    #[must_use]
    pub fn changing(mut self) -> Self {
        self.changes = true;
        self
    }

    /// Sets the phase in which it may be called.
    #[must_use]
    pub fn in_phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it does, in one sentence.
    pub fn description(&self) -> &'static str {
        self.description
    }

    /// Whether calls of it are recorded.
    pub fn changes(&self) -> bool {
        self.changes
    }

    /// When it may be called.
    pub fn phase(&self) -> Phase {
        self.phase
    }
}

fn decode<P: DeserializeOwned>(method: &str, params: Map<String, Value>) -> Result<P, RpcError> {
    params::decode(params).map_err(|source| RpcError::InvalidParams { method: method.to_owned(), source })
}

fn to_text(answer: impl Serialize) -> Result<ResultText, RpcError> {
    serde_json::to_vec(&answer).map_err(|error| not_json(&error))
}

fn not_json(error: &serde_json::Error) -> RpcError {
    RpcError::Internal { reason: format!("the answer cannot be written as JSON: {error}") }
}

/// All methods, and the reactor that they run on.
pub struct Registry {
    methods: BTreeMap<&'static str, Method>,
    handle: ReactorHandle<App>,
    call_timeout: Duration,
    archive: Option<Arc<ArchiveManager>>,
    pub(super) idle_reactors: Vec<IdleReactor>,
    list_turns: ListTurns,
}

impl Registry {
    /// A registry of the given methods. If two have the same name, the later one replaces the
    /// earlier one.
    pub fn with_methods(handle: ReactorHandle<App>, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods = methods.into_iter().map(|method| (method.name, method)).collect();
        Registry {
            methods,
            handle,
            call_timeout: DEFAULT_CALL_TIMEOUT,
            archive: None,
            idle_reactors: Vec::new(),
            list_turns: ListTurns::default(),
        }
    }

    /// Sets how long calls wait for the reactor.
    #[must_use]
    pub fn with_call_timeout(mut self, call_timeout: Duration) -> Self {
        self.call_timeout = call_timeout;
        self
    }

    /// Adds the archive.
    #[must_use]
    pub fn with_archive(mut self, archive: Arc<ArchiveManager>) -> Self {
        self.archive = Some(archive);
        self
    }

    /// Adds the reactors that do not own the pool.
    #[must_use]
    pub fn with_idle_reactors(mut self, reactors: Vec<IdleReactor>) -> Self {
        self.idle_reactors = reactors;
        self
    }

    /// Begins a read for a list; `None` if too many are under way.
    pub(super) fn begin_reading(&self) -> Option<Reading> {
        self.list_turns.begin_reading()
    }

    /// Waits for a turn to write a list.
    fn list_turn(&self) -> Result<ListTurn<'_>, RpcError> {
        self.list_turns.wait(self.call_timeout).ok_or_else(|| {
            let reason = "other callers list; try again when they have ended".to_owned();
            VolumeError::Busy { reason }.into()
        })
    }

    /// How long a call waits for a reactor.
    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// The archive, if there is one.
    pub fn find_archive(&self) -> Option<&ArchiveManager> {
        self.archive.as_deref()
    }

    /// Every method, by name.
    pub fn methods(&self) -> impl Iterator<Item = &Method> {
        self.methods.values()
    }

    /// The reactor that the methods run on.
    pub fn handle(&self) -> &ReactorHandle<App> {
        &self.handle
    }

    /// Runs a task on the reactor and waits for it.
    pub(super) fn on_reactor<T, F>(
        &self,
        method: &str,
        run: impl FnOnce(App) -> F + Send + 'static,
    ) -> Result<T, RpcError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RpcError>> + 'static,
    {
        let outcome = self.handle.call(self.call_timeout, move |app: &App, reply| {
            let task = run(app.clone());
            // The task's handle is dropped: its result goes to the waiting thread.
            drop(app.local().spawn(async move { reply.send(task.await) }));
        });
        outcome.map_err(|source| RpcError::NoAnswer { method: method.to_owned(), source })?
    }

    fn suggestion(&self, method: &str) -> Option<String> {
        self.methods
            .keys()
            .map(|name| (edits(method, name), *name))
            .min()
            .filter(|(edits, _)| *edits <= MAX_SUGGESTION_EDITS)
            .map(|(_, name)| name.to_owned())
    }
}

impl Dispatch for Registry {
    fn dispatch(&self, method: &str, params: Map<String, Value>) -> Result<Value, RpcError> {
        let text = self.dispatch_for(&Caller::Appliance, method, params)?;
        serde_json::from_slice(&text).map_err(|error| not_json(&error))
    }

    fn dispatch_for(
        &self,
        caller: &Caller,
        method: &str,
        params: Map<String, Value>,
    ) -> Result<ResultText, RpcError> {
        let Some(method) = self.methods.get(method) else {
            // The client chose the name, and it may be long; no method has a name this long.
            let shown: String = method.chars().take(64).collect();
            return Err(RpcError::MethodNotFound { suggestion: self.suggestion(&shown), method: shown });
        };
        if method.phase == Phase::Startup {
            return Err(RpcError::WrongState {
                reason: "the method can only be called before the framework is started, and it is started; leave the call out",
            });
        }
        if !method.changes {
            return (method.handler)(self, params);
        }
        let shown = Value::Object(params.clone()).to_string();
        let result = (method.handler)(self, params);
        audit::note(caller, method.name, &shown, result.as_ref());
        result
    }
}

/// The edit distance (Levenshtein): how many characters must be inserted, removed or changed to
/// turn `b` into `a`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for a_char in a.chars() {
        // From the previous row, the value before this place; from this row, the last value.
        let (mut diagonal, mut left) = (None, usize::MAX);
        for (place, above) in row.iter_mut().enumerate() {
            let changed = diagonal.map_or(usize::MAX, |(before, b_char)| {
                usize::saturating_add(before, usize::from(a_char != b_char))
            });
            diagonal = b.get(place).map(|&b_char| (*above, b_char));
            left = changed.min(above.saturating_add(1)).min(left.saturating_add(1));
            *above = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, count) in
            [("", "", 0), ("abc", "", 3), ("volume_creat", "volume_create", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(edits(a, b), count, "{a} {b}");
            assert_eq!(edits(b, a), count, "{b} {a}");
        }
    }
}
