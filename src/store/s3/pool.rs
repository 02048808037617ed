//! The HTTP client of the SDK. Unlike the SDK's own client, this client has a custom TLS
//! configuration, because the SDK accepts no certificate verifier.

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{
    CaptureConnection, HttpConnector as TcpConnector, capture_connection,
};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;

use crate::sync::Mutex;

type BoxError = Box<dyn Error + Send + Sync>;

/// Returns a client with at most `kept` idle connections per host.
pub(super) fn pooled(tls: &ClientConfig, kept: usize) -> SharedHttpClient {
    let mut tcp = TcpConnector::new();
    tcp.set_nodelay(true);
    // Allows `https` endpoints.
    tcp.enforce_http(false);
    let https = HttpsConnector::from((tcp, tls.clone()));
    // Each connect timeout has a separate pool. The bucket and a cloud's metadata services have
    // different timeouts.
    let pools = Mutex::new(HashMap::new());
    http_client_fn(move |settings, _| {
        let connect_limit = settings.connect_timeout();
        let mut pools = pools.lock();
        let client = pools.entry(connect_limit).or_insert_with(|| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(kept)
                .build(Connector {
                    https: https.clone(),
                    limit: connect_limit,
                })
        });
        SharedHttpConnector::new(Pool {
            client: client.clone(),
            answer_limit: settings.read_timeout(),
        })
    })
}

/// A connection pool with one connect timeout.
#[derive(Debug)]
struct Pool {
    client: Client<Connector, SdkBody>,
    /// Time from the start of a request to the head of its response.
    answer_limit: Option<Duration>,
}

impl HttpConnector for Pool {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        // With this handle, the SDK closes a connection after an error.
        let connection = capture_connection(&mut request);
        if let Some(capture) = request.extensions().get::<CaptureSmithyConnection>() {
            capture.set_connection_retriever(move || metadata(&connection));
        }
        let (answer, limit) = (self.client.request(request), self.answer_limit);
        HttpConnectorFuture::new(async move {
            let answer = within(limit, answer).await.map_err(classified)?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

fn metadata(connection: &CaptureConnection) -> Option<ConnectionMetadata> {
    connection.connection_metadata().as_ref()?;
    let connection = connection.clone();
    let poison = move || {
        if let Some(connected) = connection.connection_metadata().as_ref() {
            connected.poison();
        }
    };
    let metadata = ConnectionMetadata::builder().proxied(false).poison_fn(poison);
    Some(metadata.build())
}

/// Classifies an error for the SDK's retries. The SDK does not retry user errors and responses that
/// are not HTTP.
fn classified(error: BoxError) -> ConnectorError {
    if source::<Elapsed>(&*error).is_some() {
        return ConnectorError::timeout(error);
    }
    match source::<hyper::Error>(&*error) {
        Some(of_http) if of_http.is_timeout() => ConnectorError::timeout(error),
        Some(of_http) if of_http.is_user() => ConnectorError::user(error),
        Some(of_http) if of_http.is_parse() => ConnectorError::other(error, None),
        None if source::<ClientError>(&*error).is_none() => ConnectorError::other(error, None),
        _ => ConnectorError::io(error),
    }
}

fn source<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

async fn within<T, E: Into<BoxError>>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, BoxError> {
    match limit {
        None => work.await.map_err(Into::into),
        Some(limit) => tokio::time::timeout(limit, work).await?.map_err(Into::into),
    }
}

/// Opens connections. The limit covers name resolution, TCP and TLS together.
#[derive(Clone, Debug)]
struct Connector {
    https: HttpsConnector<TcpConnector>,
    limit: Option<Duration>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(within(self.limit, self.https.call(to)))
    }
}
