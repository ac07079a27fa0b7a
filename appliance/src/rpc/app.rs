//! The appliance's state as the command plane sees it: the reactor passes it to every call.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::error::RpcError;
use super::target_view::TargetView;
use crate::reactor::Local;
use crate::volume::Pool;

/// The answer to calls that need the pool while there is none.
pub(super) const POOL_NOT_OPEN: &str =
    "the pool is not open: the appliance is starting or stopping; framework_wait_init returns once it is";

/// The appliance's state on its reactor: `Reactor<App>`. A cheap handle; all clones share one
/// state.
///
/// It starts without a pool and a target, so that the command plane answers while the pool is still
/// being opened. Methods that need them then fail with code -1.
#[derive(Clone)]
pub struct App {
    inner: Rc<Inner>,
}

struct Inner {
    local: Local,
    reactor_name: String,
    core: Option<usize>,
    started: Instant,
    pool: RefCell<Option<Rc<Pool>>>,
    target: RefCell<Option<Rc<dyn TargetView>>>,
}

impl App {
    /// The state on the reactor that `local` belongs to. `reactor_name` and `core` are only for
    /// display.
    pub fn new(local: Local, reactor_name: impl Into<String>, core: Option<usize>) -> Self {
        let inner = Inner {
            local,
            reactor_name: reactor_name.into(),
            core,
            started: Instant::now(),
            pool: RefCell::default(),
            target: RefCell::default(),
        };
        App { inner: Rc::new(inner) }
    }

    /// Makes this pool available to calls.
    pub fn set_pool(&self, pool: Rc<Pool>) {
        *self.inner.pool.borrow_mut() = Some(pool);
    }

    /// Removes the pool from the state, to close it.
    pub fn take_pool(&self) -> Option<Rc<Pool>> {
        self.inner.pool.borrow_mut().take()
    }

    /// Makes this target available to calls.
    pub fn set_target(&self, target: Rc<dyn TargetView>) {
        *self.inner.target.borrow_mut() = Some(target);
    }

    /// Removes the target from the state, to stop it.
    pub fn take_target(&self) -> Option<Rc<dyn TargetView>> {
        self.inner.target.borrow_mut().take()
    }

    /// The pool.
    ///
    /// # Errors
    /// [`RpcError::WrongState`] before it is open and after it was closed.
    pub fn pool(&self) -> Result<Rc<Pool>, RpcError> {
        self.find_pool().ok_or(RpcError::WrongState { reason: POOL_NOT_OPEN })
    }

    /// The pool, if it is open.
    pub fn find_pool(&self) -> Option<Rc<Pool>> {
        self.inner.pool.borrow().clone()
    }

    /// Whether the pool is open.
    pub fn is_ready(&self) -> bool {
        self.inner.pool.borrow().is_some()
    }

    /// The NVMe-oF target.
    ///
    /// # Errors
    /// [`RpcError::WrongState`] when it does not run.
    pub fn target(&self) -> Result<Rc<dyn TargetView>, RpcError> {
        self.find_target().ok_or(RpcError::WrongState {
            reason: "the NVMe-oF target does not run: the appliance is starting or stopping, or serves nobody",
        })
    }

    /// The NVMe-oF target, if it runs.
    pub fn find_target(&self) -> Option<Rc<dyn TargetView>> {
        self.inner.target.borrow().clone()
    }

    /// Tasks, timers and counters of the reactor.
    pub fn local(&self) -> &Local {
        &self.inner.local
    }

    /// The reactor's name.
    pub fn reactor_name(&self) -> &str {
        &self.inner.reactor_name
    }

    /// The core that the reactor is pinned to.
    pub fn core(&self) -> Option<usize> {
        self.inner.core
    }

    /// When the appliance started.
    pub fn started(&self) -> Instant {
        self.inner.started
    }
}
