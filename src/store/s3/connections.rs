//! The SDK's connections. The SDK retries a failed request on any pooled connection. If all pooled
//! connections died together, for example after the replacement of an engine, each retry would use
//! another dead connection. This client retries on a new connection instead.

use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::HttpRequest;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};

/// Returns a client that first uses the pooled connections of `kept`. If such a connection fails,
/// the client retries on a new connection of `fresh`.
pub(super) fn kept_or_fresh(kept: SharedHttpClient, fresh: SharedHttpClient) -> SharedHttpClient {
    http_client_fn(move |settings, components| {
        SharedHttpConnector::new(KeptOrFresh {
            kept: kept.http_connector(settings, components),
            fresh: fresh.http_connector(settings, components),
        })
    })
}

#[derive(Debug)]
struct KeptOrFresh {
    kept: SharedHttpConnector,
    fresh: SharedHttpConnector,
}

impl HttpConnector for KeptOrFresh {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        // Other methods are not idempotent, or their body is already consumed.
        let again = matches!(request.method(), "GET" | "HEAD" | "PUT")
            .then(|| request.try_clone())
            .flatten();
        let (first, fresh) = (self.kept.call(request), self.fresh.clone());
        HttpConnectorFuture::new(async move {
            match (first.await, again) {
                (Err(error), Some(request)) if !error.is_timeout() && !error.is_user() => {
                    fresh.call(request).await
                }
                (outcome, _) => outcome,
            }
        })
    }
}
