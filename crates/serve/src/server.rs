//! The server: connections, methods, and the way from a request to an answer.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, HOST};
use axum::http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use axum::serve::ListenerExt as _;
use strandline_model::with_causes;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::accept;
use crate::reply;
use crate::route::{Route, route};
use crate::site::{Asked, Missing, Site};

/// How long requests may still run once the server is to stop.
const LAST_CALL: Duration = Duration::from_secs(5);

/// Serves `site` until `shutdown` is ready. Then the server takes no more connections, lets requests run for a
/// few seconds more, and cuts off the rest.
pub async fn serve(
    listener: TcpListener,
    site: Arc<Site>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Answers are written whole: waiting for more only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps waiting for full packets");
        }
    });
    let app = Router::new().fallback(answer).with_state(site);
    let (stopping, stopped) = oneshot::channel::<()>();
    let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
        shutdown.await;
        drop(stopping);
    });
    let too_late = async move {
        // An error here only means that the sender has ended.
        stopped.await.unwrap_or(());
        tokio::time::sleep(LAST_CALL).await;
    };
    tokio::select! {
        done = serving => done,
        () = too_late => {
            tracing::debug!("requests were cut off");
            Ok(())
        }
    }
}

async fn answer(State(site): State<Arc<Site>>, request: Request) -> Response<Body> {
    let began = Instant::now();
    let (parts, _) = request.into_parts();
    let answer = match respond(site, &parts.method, parts.uri.path(), parts.uri.query(), &parts.headers).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!(path = parts.uri.path(), why = with_causes(&error), "cannot answer");
            reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "the server cannot read its store; its log says why")
        }
    };
    let status = answer.status().as_u16();
    tracing::debug!(method = %parts.method, uri = %parts.uri, status, elapsed = ?began.elapsed(), "request");
    answer
}

async fn respond(
    site: Arc<Site>,
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Ok(reply::method_not_allowed());
    }
    let asked = match route(path) {
        Route::Nothing(why) => return Ok(reply::plain(StatusCode::NOT_FOUND, why)),
        Route::Moved(to) => return Ok(reply::moved(&to, query)),
        Route::Home => Asked::Home { host: joined(headers, HOST) },
        Route::File(place, path) => Asked::File(place, path),
        Route::Page(place, project) => match accept::choose(joined(headers, ACCEPT).as_deref()) {
            Some(form) => Asked::Page(place, project, form),
            None => return Ok(reply::not_acceptable()),
        },
    };
    let found = match site.remember(&asked) {
        Some(found) => found?,
        None => tokio::task::spawn_blocking(move || site.look_up(&asked)).await.map_err(Failure::Panicked)??,
    };
    match found {
        Ok(content) => Ok(reply::content(method, headers, content)),
        Err(Missing(why)) => Ok(reply::plain(StatusCode::NOT_FOUND, &why)),
    }
}

/// All values of a header as one list. Bytes that are not text become characters that match no rule.
fn joined(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// An answer could not be made.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] strandline_store::StoreError),
    /// A look-up died.
    #[error("a look-up ended too early")]
    Panicked(#[source] tokio::task::JoinError),
}
