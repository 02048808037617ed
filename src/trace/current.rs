//! The span in which the running task works.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::is_on;
use crate::http::TraceContext;

thread_local! {
    static CURRENT: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

/// Restores the span of the thread on drop, also during a panic.
struct Entered(Option<TraceContext>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

pin_project! {
    /// Work in a span. Made by [`within`]. Larger than the work by a context only, because each
    /// connection pays for the largest state of its future.
    pub struct Within<F> {
        context: Option<TraceContext>,
        #[pin]
        work: F,
    }
}

/// Returns the span of the running task. `None` outside of [`within`].
pub fn current() -> Option<TraceContext> {
    CURRENT.get()
}

/// Runs `work` in the span `context`, on a core or on the helper pool. A task that `work` spawns is
/// not in the span.
///
/// # Cancellation
///
/// Like `work`.
pub fn within<F: Future>(context: Option<TraceContext>, work: F) -> Within<F> {
    let context = context.filter(|_| is_on());
    Within { context, work }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _outer = Entered(CURRENT.replace(*this.context));
        this.work.poll(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_a_span_is_larger_by_the_context_only() {
        let work = async {
            let bytes = [1_u8; 4_096];
            std::future::ready(()).await;
            bytes.len()
        };
        let size = size_of_val(&work);
        assert_eq!(
            size_of_val(&within(None, work)),
            (size + size_of::<Option<TraceContext>>()).next_multiple_of(align_of::<TraceContext>())
        );
    }
}
