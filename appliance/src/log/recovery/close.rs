//! A clean stop: makes everything stable, and writes a partial trailer that saves the next start a
//! scan.

use std::task::Poll;

use smallvec::smallvec;

use crate::bdev::BdevErrorKind;
use crate::dma::BLOCK_BYTES;
use crate::log::error::LogError;
use crate::log::types::Lsn;
use crate::log::writer::SharedLog;

/// Writes what is open, waits for it, makes it stable, and writes a partial trailer, so that the
/// next start need not scan.
///
/// # Errors
/// [`LogError::Poisoned`] if the log has failed or fails now; the device's errors.
pub async fn close(log: &SharedLog) -> Result<(), LogError> {
    loop {
        {
            let mut log = log.borrow_mut();
            let head = log.head_lsn();
            log.close_up_to(head);
            log.request_stable(head);
        }
        let head = log.borrow().head_lsn();
        stable(log, head).await?;
        if log.borrow().is_quiet() {
            break;
        }
        crate::reactor::yield_now().await;
    }
    let (device, trailer) = {
        let log = log.borrow();
        (log.device().clone(), log.closing_trailer())
    };
    if let Some((mut block, buffers)) = trailer {
        for buffer in buffers {
            let len_blocks = (buffer.len() / BLOCK_BYTES) as u64;
            match device.write(block, smallvec![buffer]).await {
                // It only saves the next start a scan. A partly written trailer is not valid.
                Err(error) if error.kind == BdevErrorKind::NoRoom => break,
                result => result?,
            }
            block += len_blocks;
        }
    }
    device.flush().await?;
    Ok(())
}

/// Waits until everything before `lsn` is stable.
///
/// # Errors
/// [`LogError::Poisoned`].
pub async fn stable(log: &SharedLog, lsn: Lsn) -> Result<(), LogError> {
    log.borrow_mut().request_stable(lsn);
    std::future::poll_fn(|context| {
        let mut log = log.borrow_mut();
        if log.stable_lsn() >= lsn {
            return Poll::Ready(Ok(()));
        }
        if let Some(failure) = log.poisoned() {
            return Poll::Ready(Err(LogError::Poisoned { failure: failure.clone() }));
        }
        log.add_waiter(context.waker().clone());
        Poll::Pending
    })
    .await
}
