//! Local tasks: futures that run on one reactor, for everything that is not on the per-I/O path
//! (scans, recovery, RPCs).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;

/// The most task polls of one turn. The rest waits for the next turn, so tasks cannot starve the
/// pollers.
const POLLS_PER_TURN: usize = 64;
/// The most time for task polls in one turn.
const POLLS_TIME_MAX: Duration = Duration::from_micros(500);

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
pub(super) struct Executor {
    tasks: RefCell<Vec<Option<Task>>>,
    free: RefCell<Vec<usize>>,
    ready: Arc<SegQueue<(usize, u64)>>,
    live: Cell<usize>,
    next_generation: Cell<u64>,
}

struct Task {
    generation: u64,
    future: Option<LocalFuture>,
    waker: Waker,
}

struct TaskWaker {
    index: usize,
    generation: u64,
    ready: Arc<SegQueue<(usize, u64)>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push((self.index, self.generation));
    }
}

impl Executor {
    pub(super) fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let state = Rc::new(RefCell::new(JoinState { result: None, waker: None, done: false }));
        let guard = JoinGuard(Rc::clone(&state));
        let wrapped = async move {
            let result = future.await;
            guard.0.borrow_mut().result = Some(result);
            drop(guard);
        };
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.tasks.borrow_mut().push(None);
            self.tasks.borrow().len() - 1
        });
        let generation = self.next_generation.get();
        self.next_generation.set(generation + 1);
        let waker = Waker::from(Arc::new(TaskWaker { index, generation, ready: Arc::clone(&self.ready) }));
        self.tasks.borrow_mut()[index] = Some(Task { generation, future: Some(Box::pin(wrapped)), waker });
        self.live.set(self.live.get() + 1);
        self.ready.push((index, generation));
        JoinHandle { state }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn live(&self) -> usize {
        self.live.get()
    }

    /// Polls tasks that are ready, within the bounds of a turn. Returns how many.
    pub(super) fn run(&self) -> usize {
        let mut begun: Option<Instant> = None;
        self.run_while(|| begun.get_or_insert_with(Instant::now).elapsed() < POLLS_TIME_MAX)
    }

    /// The same without the bound of time, so that a run on a slow machine is the same as on a fast
    /// one.
    pub(super) fn run_by_count(&self) -> usize {
        self.run_while(|| true)
    }

    fn run_while(&self, mut has_time: impl FnMut() -> bool) -> usize {
        let mut polled = 0;
        // An executor without ready tasks does not ask for the time.
        while polled < POLLS_PER_TURN && self.has_ready() && has_time() {
            let Some((index, generation)) = self.ready.pop() else { break };
            let taken = match &mut self.tasks.borrow_mut()[index] {
                Some(task) if task.generation == generation => {
                    task.future.take().map(|future| (future, task.waker.clone()))
                }
                _ => None,
            };
            let Some((mut future, waker)) = taken else { continue };
            polled += 1;
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => {
                    // The future may hold the last reference to objects that spawn or wake, so it
                    // is dropped while nothing is borrowed.
                    drop(future);
                    self.tasks.borrow_mut()[index] = None;
                    self.free.borrow_mut().push(index);
                    self.live.set(self.live.get() - 1);
                }
                Poll::Pending => {
                    if let Some(task) = &mut self.tasks.borrow_mut()[index] {
                        task.future = Some(future);
                    }
                }
            }
        }
        polled
    }

    /// Drops every task, finished or not.
    pub(super) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        self.free.borrow_mut().clear();
        self.live.set(0);
    }
}

struct JoinState<T> {
    result: Option<T>,
    waker: Option<Waker>,
    done: bool,
}

struct JoinGuard<T>(Rc<RefCell<JoinState<T>>>);

impl<T> Drop for JoinGuard<T> {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.done = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// The task was dropped before it finished: its reactor stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task was dropped because its reactor stopped")]
pub struct JoinError;

/// The result of a task, as a future. The task continues if this is dropped.
pub struct JoinHandle<T> {
    state: Rc<RefCell<JoinState<T>>>,
}

impl<T> JoinHandle<T> {
    /// Whether the task has ended.
    pub fn is_done(&self) -> bool {
        self.state.borrow().done
    }

    /// The result, if the task has ended and nobody has taken it.
    pub fn try_take(&self) -> Option<T> {
        self.state.borrow_mut().result.take()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.state.borrow_mut();
        if let Some(result) = state.result.take() {
            return Poll::Ready(Ok(result));
        }
        if state.done {
            return Poll::Ready(Err(JoinError));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Lets other work of the reactor run before the task continues. For long computations in tasks.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
