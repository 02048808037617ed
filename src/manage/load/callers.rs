//! Requests of the cache itself, for the callers of a registry in turn.

use crate::cache::{Caller, FetchError};
use crate::limits::{LOAD_RETRIES_MAX, LOAD_RETRY_PAUSE};

/// Makes a request for each caller in turn, until one is not refused. Waits while the cache has no slot
/// for the request, and repeats a request that another fetch has displaced. The caller bounds the time.
///
/// # Errors
///
/// The error of the first request that is not refused, or of the last request.
pub(super) async fn for_first_allowed<T>(
    callers: &[Caller],
    request: impl AsyncFn(&Caller) -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let mut refused = FetchError::Lost;
    for caller in callers {
        let mut retries = 0;
        let outcome = loop {
            match request(caller).await {
                // Other fetches need the slots.
                Err(FetchError::Overloaded | FetchError::Displaced) => {}
                Err(FetchError::Abandoned(_)) if retries < LOAD_RETRIES_MAX => retries += 1,
                outcome => break outcome,
            }
            monoio::time::sleep(LOAD_RETRY_PAUSE).await;
        };
        match outcome {
            Err(error) if error.is_refusal() => refused = error,
            outcome => return outcome,
        }
    }
    Err(refused)
}
