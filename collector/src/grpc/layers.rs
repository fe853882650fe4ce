//! The layers around all gRPC services, from the outside to the inside. Each call passes them in this order:
//!
//! 1. [`Observe`]: a trace span for the call, and its count, result and time as metrics.
//! 2. [`CatchPanic`]: a panic in a handler ends its call with INTERNAL, and nothing else.
//! 3. *Identity and roles belong here: behind the metrics, so that refusals are counted, and before the limits, so that
//!    unknown callers do not use them up.*
//! 4. [`UnaryLimits`]: how many unary calls run at a time, and how long each may take. Streams are bounded elsewhere:
//!    by connections ([`runtime::net`](redkeeper_runtime::net)), by streams for each connection, and by their own
//!    rules.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use tokio::sync::Semaphore;
use tonic::{
    Code, Status,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};
use tracing::Instrument;

use super::errors::Failure;
use crate::metrics::Metrics;

/// Maximum unary calls at a time. Each is answered from memory in well under a millisecond, so that more of them only
/// wait for the same CPUs; one holds a page of 1,000 instances at most, some 500 KB.
pub const UNARY_MAX: usize = 256;
/// How long a unary call may take.
pub const UNARY_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls that are streams, to which these limits do not apply.
const STREAMS: [&str; 6] = [
    "/redkeeper.v1.AgentService/ReportStatus",
    "/redkeeper.v1.StatusService/WatchInstances",
    "/redkeeper.v1.PeerService/Link",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// Calls that have a name of their own in the metrics; any other name is the caller's invention.
const UNARY: [&str; 8] = [
    "/redkeeper.v1.StatusService/GetInstance",
    "/redkeeper.v1.StatusService/ListInstances",
    "/redkeeper.v1.StatusService/SummarizeInstances",
    "/redkeeper.v1.StatusService/ListTransitions",
    "/redkeeper.v1.StatusService/GetClusterStatus",
    "/redkeeper.v1.StatusService/ListAgents",
    "/redkeeper.v1.AdminService/StepDown",
    HEALTH,
];
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Stands for a method that is not known: its name is the caller's invention, and is no label.
const OTHER: &str = "other";

type Answer<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// Observes calls: counts them, times unary ones, and gives each a trace span.
#[derive(Clone)]
pub struct Observe {
    metrics: Metrics,
    known: Arc<[Known]>,
}

/// A method with its metrics, so that a successful call looks up none.
struct Known {
    path: &'static str,
    /// The method as metrics name it.
    name: &'static str,
    succeeded: Counter,
    /// `None` for a stream.
    seconds: Option<Histogram>,
}

impl Known {
    fn new(path: &'static str, metrics: &Metrics) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let seconds = || metrics.call_seconds.get_or_create_owned(&[("method", name)]);
        Self {
            path,
            name,
            succeeded: metrics
                .calls
                .get_or_create_owned(&[("method", name), ("code", "OK")]),
            seconds: (!is_stream(path)).then(seconds),
        }
    }
}

impl Observe {
    /// Counts in `metrics`.
    pub fn new(metrics: Metrics) -> Self {
        let known = UNARY.iter().chain(&STREAMS).chain(&[OTHER]);
        Self {
            known: known.map(|path| Known::new(path, &metrics)).collect(),
            metrics,
        }
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed {
            inner,
            observe: self.clone(),
        }
    }
}

/// A service whose calls are counted and traced.
#[derive(Clone)]
pub struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S, A, B> Service<Request<A>> for Observed<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Answer<B, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (path, start) = (request.uri().path(), Instant::now());
        let Observe { metrics, known } = self.observe.clone();
        // The last one is for all others.
        let place = known
            .iter()
            .position(|one| one.path == path)
            .unwrap_or(known.len() - 1);
        let span = tracing::debug_span!("grpc", method = known[place].name);
        let call = self.inner.call(request);
        let observed = async move {
            let answer = call.await;
            let code = match &answer {
                // Of a stream, and of a call that succeeds, the status comes at the end, behind the answer.
                Ok(answer) => {
                    Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
                }
                Err(_) => Code::Unknown,
            };
            let known = &known[place];
            if code == Code::Ok {
                known.succeeded.inc();
            } else {
                let labels = [("method", known.name), ("code", name(code))];
                metrics.calls.get_or_create(&labels).inc();
            }
            if let Some(seconds) = &known.seconds {
                seconds.observe(start.elapsed().as_secs_f64());
            }
            answer
        };
        Box::pin(observed.instrument(span))
    }
}

/// Name of the code in gRPC's own documents.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Ends a call with INTERNAL if its handler panics. The panic itself is counted and logged where all panics are.
#[derive(Clone, Copy)]
pub struct CatchPanic;

impl<S> Layer<S> for CatchPanic {
    type Service = PanicCaught<S>;

    fn layer(&self, inner: S) -> PanicCaught<S> {
        PanicCaught { inner }
    }
}

/// A service whose panics are caught.
#[derive(Clone)]
pub struct PanicCaught<S> {
    inner: S,
}

impl<S, A, B> Service<Request<A>> for PanicCaught<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Answer<B, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        // A panic cannot leave shared state half changed: the view is immutable, and a handler's queues are its own.
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let internal = || Status::internal("the collector failed at this call; its log says how");
        Box::pin(async move { call.await.unwrap_or_else(|_| Ok(internal().into_http())) })
    }
}

/// Bounds unary calls: one beyond the limit is refused at once with RESOURCE_EXHAUSTED instead of being queued, and one
/// that takes too long ends with DEADLINE_EXCEEDED.
#[derive(Clone)]
pub struct UnaryLimits {
    places: Arc<Semaphore>,
    timeout: Duration,
}

impl UnaryLimits {
    /// At most `calls` at a time, each for `timeout` at most.
    pub fn new(calls: usize, timeout: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(calls)),
            timeout,
        }
    }
}

impl<S> Layer<S> for UnaryLimits {
    type Service = UnaryLimited<S>;

    fn layer(&self, inner: S) -> UnaryLimited<S> {
        UnaryLimited {
            inner,
            limits: self.clone(),
        }
    }
}

/// A service whose unary calls are bounded.
#[derive(Clone)]
pub struct UnaryLimited<S> {
    inner: S,
    limits: UnaryLimits,
}

impl<S, A, B> Service<Request<A>> for UnaryLimited<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Default + Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Answer<B, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        if is_stream(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let place = Arc::clone(&self.limits.places).try_acquire_owned().ok();
        // Whoever checks the health must not be told that others are many.
        if place.is_none() && request.uri().path() != HEALTH {
            let busy = Status::from(Failure::Full("too many calls at a time"));
            return Box::pin(std::future::ready(Ok(busy.into_http())));
        }
        let (call, timeout) = (self.inner.call(request), self.limits.timeout);
        Box::pin(async move {
            let answer = tokio::time::timeout(timeout, call).await;
            drop(place);
            let late = || Status::deadline_exceeded(format!("not answered within {timeout:?}"));
            answer.unwrap_or_else(|_| Ok(late().into_http()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    const GET: &str = "/redkeeper.v1.StatusService/GetInstance";

    fn request(path: &str) -> Request<()> {
        Request::builder().uri(path).body(()).unwrap()
    }

    fn code(answer: Result<Response<String>, Infallible>) -> Code {
        let answer = answer.unwrap_or_else(|never| match never {});
        Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
    }

    async fn fine(_: Request<()>) -> Result<Response<String>, Infallible> {
        Ok(Response::new("fine".to_owned()))
    }

    #[tokio::test]
    async fn calls_are_counted_by_method_and_code() {
        let metrics = Metrics::default();
        let refuse =
            |_: Request<()>| async { Ok::<_, Infallible>(Status::not_found("no").into_http::<String>()) };
        let observe = Observe::new(metrics.clone());
        code(observe.layer(service_fn(fine)).oneshot(request(GET)).await);
        code(observe.layer(service_fn(refuse)).oneshot(request(GET)).await);
        code(observe.layer(service_fn(refuse)).oneshot(request("/a/b")).await);
        let count = |method, code| {
            metrics
                .calls
                .get_or_create(&[("method", method), ("code", code)])
                .get()
        };
        assert_eq!(
            (count("GetInstance", "OK"), count("GetInstance", "NOT_FOUND")),
            (1, 1)
        );
        assert_eq!(
            count("other", "NOT_FOUND"),
            1,
            "a name that was made up is none of its own"
        );
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_call_only() {
        let panic = |request: Request<()>| async move {
            assert!(request.uri().path() != GET, "planted");
            fine(request).await
        };
        let service = CatchPanic.layer(service_fn(panic));
        assert_eq!(code(service.clone().oneshot(request(GET)).await), Code::Internal);
        assert_eq!(code(service.oneshot(request("/a/b")).await), Code::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn unary_calls_are_bounded_in_number_and_time_and_streams_are_not() {
        let hang = |_: Request<()>| std::future::pending::<Result<Response<String>, Infallible>>();
        let service = UnaryLimits::new(1, Duration::from_secs(1)).layer(service_fn(hang));
        let first = service.clone().oneshot(request(GET));
        let second = async {
            tokio::task::yield_now().await;
            service.clone().oneshot(request(GET)).await
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!(code(second), Code::ResourceExhausted, "there is one place");
        assert_eq!(code(first), Code::DeadlineExceeded);
        // The slot is free again.
        assert_eq!(
            code(service.clone().oneshot(request(GET)).await),
            Code::DeadlineExceeded
        );
        let stream = service.oneshot(request(STREAMS[0]));
        assert!(
            tokio::time::timeout(Duration::from_secs(60), stream)
                .await
                .is_err()
        );
    }

    #[test]
    fn all_methods_of_the_services_are_known() {
        use redkeeper_proto::DESCRIPTOR;
        let text = String::from_utf8_lossy(DESCRIPTOR);
        for path in STREAMS
            .iter()
            .chain(&UNARY)
            .filter(|path| path.starts_with("/redkeeper"))
        {
            let method = path.rsplit('/').next().unwrap();
            assert!(text.contains(method), "{method}");
        }
    }
}
