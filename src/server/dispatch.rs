//! From a request to its answer: route, read, validate, call, answer, log.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use crate::api::{self, Fault, Operation};
use crate::aws::sigv4::Scope;

use super::{Application, Call, Config, Limits};

pub(super) type Body = Full<Bytes>;

const TARGET_PREFIX: &str = "AmazonDMSv20160101.";
const AWS_JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What Prometheus asks for, and what people can read.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");

pub(super) struct Dispatch {
    application: Arc<dyn Application>,
    config: Config,
    /// A permit for every byte of a body that is in memory.
    body_bytes: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Calls under way. They are tasks of their own so that a client that goes away does not cut one off half-way.
    calls: Mutex<JoinSet<()>>,
}

/// What a request is for.
#[derive(Clone, Copy)]
enum Route {
    Operation,
    Health,
    Metrics,
    Reset,
}

const ROUTES: [(&str, Method, Route); 4] = [
    ("/", Method::POST, Route::Operation),
    ("/_dms-local/health", Method::GET, Route::Health),
    ("/_dms-local/metrics", Method::GET, Route::Metrics),
    ("/_dms-local/reset", Method::POST, Route::Reset),
];

/// A request body and its share of the memory for bodies.
struct Payload {
    bytes: BytesMut,
    share: OwnedSemaphorePermit,
}

impl Dispatch {
    pub(super) fn new(application: Arc<dyn Application>, config: Config) -> Dispatch {
        let body_bytes = Arc::new(Semaphore::new(config.limits.bodies_bytes_max));
        let places = Arc::new(Semaphore::new(config.limits.calls_max));
        Dispatch { application, config, body_bytes, places, calls: Mutex::new(JoinSet::new()) }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let request_id = Uuid::new_v4();
        let (head, body) = request.into_parts();
        let path = ROUTES.iter().find(|(path, ..)| *path == head.uri.path());
        match path {
            Some((_, method, Route::Operation)) if *method == head.method => {
                self.operation(&head, body, request_id).await
            }
            Some((_, method, route)) if *method == head.method => {
                let (outcome, content_type) = match route {
                    Route::Reset => (self.reset(&head.headers, request_id).await, JSON),
                    Route::Metrics => (self.metrics().await, METRICS),
                    Route::Health | Route::Operation => (self.health().await, JSON),
                };
                closing_unless_read(respond(outcome, content_type, request_id), &body)
            }
            Some((_, method, _)) => {
                let mut response = respond(Err(Fault::method_not_allowed(method.as_str())), JSON, request_id);
                let method = HeaderValue::from_str(method.as_str()).expect("methods are plain ASCII");
                response.headers_mut().insert(header::ALLOW, method);
                closing_unless_read(response, &body)
            }
            None => closing_unless_read(respond(Err(Fault::unknown_path()), JSON, request_id), &body),
        }
    }

    async fn health(&self) -> Result<String, Fault> {
        let application = Arc::clone(&self.application);
        self.run(async move { application.health().await.to_string() }).await
    }

    async fn metrics(&self) -> Result<String, Fault> {
        let application = Arc::clone(&self.application);
        self.run(async move { application.metrics().await }).await
    }

    async fn reset(&self, headers: &HeaderMap, request_id: Uuid) -> Result<String, Fault> {
        if is_cross_origin(headers) {
            return Err(Fault::access_denied("A web page of another origin may not reset dms-local."));
        }
        let application = Arc::clone(&self.application);
        let outcome = self.run(async move { application.reset().await }).await.and_then(|outcome| outcome);
        match &outcome {
            Ok(()) => tracing::info!(%request_id, "reset"),
            Err(fault) => tracing::error!(%request_id, detail = fault.detail(), "reset failed: {fault}"),
        }
        outcome.map(|()| "{}".to_owned())
    }

    async fn operation(&self, head: &Parts, body: Incoming, request_id: Uuid) -> Response<Body> {
        let started = Instant::now();
        let operation = operation_of(&head.headers);
        let name = operation.as_ref().ok().copied();
        let authorization = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let scope = Scope::of_request(authorization, head.uri.query(), &self.config.scope);
        // Even if nothing will come of it: a connection with an unread body cannot be used again.
        let payload = self.read(body).await;
        let is_read = payload.is_ok();
        let outcome = self.call(operation, scope.clone(), payload, request_id).await;
        log(name, &scope, request_id, started, outcome.as_ref().err());
        let mut response = respond(outcome, AWS_JSON, request_id);
        if !is_read {
            close(&mut response);
        }
        response
    }

    async fn call(
        &self,
        operation: Result<Operation, Fault>,
        scope: Scope,
        payload: Result<Payload, Fault>,
        request_id: Uuid,
    ) -> Result<String, Fault> {
        let Payload { bytes, share } = payload?;
        let operation = operation?;
        let body = parse(&bytes)?;
        drop(bytes);
        if !self.application.carries_out(operation) {
            return Err(Fault::not_implemented(operation));
        }
        api::validate_input(operation, &body)?;
        let application = Arc::clone(&self.application);
        let call = Call { operation, scope, body, request_id };
        let outcome = self.run(async move {
            let outcome = application.call(call).await;
            drop(share);
            outcome
        });
        let outcome = outcome.await.and_then(|outcome| outcome);
        if cfg!(debug_assertions) { check(operation, outcome) } else { outcome }
    }

    /// Reads a body within the limits.
    async fn read(&self, body: Incoming) -> Result<Payload, Fault> {
        let limits = self.limits();
        if body.size_hint().lower() > limits.body_bytes_max as u64 {
            return Err(Fault::request_too_large(limits.body_bytes_max));
        }
        match timeout(limits.body_timeout, self.collect(body)).await {
            Ok(payload) => payload,
            Err(_) => Err(Fault::request_timeout()),
        }
    }

    async fn collect(&self, mut body: Incoming) -> Result<Payload, Fault> {
        let busy = || Fault::service_unavailable("Too many large requests at once. Try again.");
        let mut bytes = BytesMut::new();
        let mut share = Arc::clone(&self.body_bytes).try_acquire_many_owned(0).map_err(|_| busy())?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Fault::malformed_request("The request body ends early or is garbled."))?;
            // Trailers are no part of the body.
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > self.limits().body_bytes_max {
                return Err(Fault::request_too_large(self.limits().body_bytes_max));
            }
            // A frame is never larger than the connection's buffer.
            let more = Arc::clone(&self.body_bytes).try_acquire_many_owned(data.len() as u32);
            share.merge(more.map_err(|_| busy())?);
            bytes.extend_from_slice(&data);
        }
        Ok(Payload { bytes, share })
    }

    /// Carries out work as a task of its own.
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, Fault> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Fault::service_unavailable("Too many calls at once. Try again."));
        };
        let (result, done) = oneshot::channel();
        {
            let mut calls = self.calls();
            while calls.try_join_next().is_some() {}
            calls.spawn(async move {
                // The client may have gone; the work is done all the same.
                let _ = result.send(work.await);
                drop(place);
            });
        }
        done.await.map_err(|_| Fault::internal("the call panicked or was cut off by the shutdown"))
    }

    /// Waits until every call has ended. No new ones may come.
    pub(super) async fn finish_calls(&self) {
        while poll_fn(|context| self.calls().poll_join_next(context)).await.is_some() {}
    }

    pub(super) async fn abort_calls(&self) {
        self.calls().abort_all();
        self.finish_calls().await;
    }

    fn calls(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Any web page can make its visitor's browser send a plain POST to a local port; only the browser says from where.
/// Operations need no such check: they have a header that browsers do not send across origins without asking.
fn is_cross_origin(headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).map(|origin| origin.as_bytes());
    let host = headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes());
    origin.is_some_and(|origin| origin.strip_prefix(b"http://").is_none_or(|origin| origin != host))
}

fn operation_of(headers: &HeaderMap) -> Result<Operation, Fault> {
    let Some(target) = headers.get(TARGET) else {
        return Err(Fault::unknown_operation("The request has no X-Amz-Target."));
    };
    target
        .to_str()
        .ok()
        .and_then(|target| target.strip_prefix(TARGET_PREFIX))
        .and_then(Operation::from_name)
        .ok_or_else(|| Fault::unknown_operation("X-Amz-Target names no operation of AmazonDMSv20160101."))
}

/// An empty body stands for an empty object.
fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    if bytes.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    // What serde_json says of bad syntax has a place in it but nothing of the text.
    serde_json::from_slice(bytes)
        .map_err(|error| Fault::serialization(format!("The request body is not valid JSON: {error}")))
}

/// In debug builds an answer outside the model is an internal failure, so that no test passes on it.
fn check(operation: Operation, outcome: Result<String, Fault>) -> Result<String, Fault> {
    let outside = match &outcome {
        Ok(body) => match serde_json::from_str(body) {
            Ok(body) => api::validate_output(operation, &body).err(),
            Err(error) => Some(format!("{} answers no JSON: {error}", operation.name())),
        },
        Err(fault) => fault.check(operation).err(),
    };
    outside.map_or(outcome, |outside| Err(Fault::internal(outside)))
}

fn respond(outcome: Result<String, Fault>, content_type: HeaderValue, request_id: Uuid) -> Response<Body> {
    let (status, body) = match outcome {
        Ok(body) => (200, body),
        Err(fault) => (fault.status, fault.body()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).expect("faults have statuses of HTTP");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(REQUEST_ID, HeaderValue::try_from(request_id.to_string()).expect("a UUID is plain ASCII"));
    response
}

fn closing_unless_read(mut response: Response<Body>, body: &Incoming) -> Response<Body> {
    if !body.is_end_stream() {
        close(&mut response);
    }
    response
}

/// Tells the client, and [`super::connection`], that the connection ends with this answer.
fn close(response: &mut Response<Body>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// One line a request: of those that only look, which clients repeat while they wait, at debug level. Never the body.
fn log(operation: Option<Operation>, scope: &Scope, request_id: Uuid, started: Instant, fault: Option<&Fault>) {
    let name = operation.map_or("unknown", Operation::name);
    let Scope { account, region } = scope;
    let ms = started.elapsed().as_millis() as u64;
    match fault {
        None if operation.is_some_and(Operation::is_read_only) => {
            tracing::debug!(operation = name, account, region, code = "OK", ms, %request_id, "request");
        }
        None => tracing::info!(operation = name, account, region, code = "OK", ms, %request_id, "request"),
        Some(fault) if fault.status == 500 => {
            let (code, detail) = (fault.code, fault.detail());
            tracing::error!(operation = name, account, region, code, ms, %request_id, detail, "request failed");
        }
        Some(fault) => {
            let (code, message) = (fault.code, fault.message.as_str());
            tracing::info!(operation = name, account, region, code, ms, %request_id, fault = message, "request refused");
        }
    }
}
