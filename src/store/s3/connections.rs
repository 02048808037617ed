//! The SDK's connections. The SDK repeats what failed, but on whichever connection is kept: where all kept ones died together,
//! as when an engine is replaced, each attempt meets another dead one. Here it meets a new one.

use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::HttpRequest;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};

/// A client that sends a request that failed on a connection of `kept` again by `fresh`, which keeps none.
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
        // The others are not idempotent, or have a body that is gone.
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
