//! Traces by OpenTelemetry: a server span per request, a client span per attempt at a worker, and their way to a
//! receiver (OTLP over HTTP, in protobuf).
//!
//! All of it needs the feature `otel`; without it, `off` has types without a size whose methods do nothing. A data
//! thread only puts finished spans into a bounded queue; a task on the control thread sends them. A tunnel is the span
//! of its upgrade, because a span that lasts for hours ruins every view of latency. A trace goes on as its
//! `traceparent` says (W3C Trace Context); requests without one begin a trace, of which the configured share is sent.
//! Left out: metrics and logs by OTLP, baggage, and links between spans.

#[cfg(feature = "otel")]
mod context;
#[cfg(feature = "otel")]
mod export;
#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod otlp;
#[cfg(feature = "otel")]
mod queue;
#[cfg(feature = "otel")]
mod span;

#[cfg(feature = "otel")]
pub(crate) use export::keep;
#[cfg(not(feature = "otel"))]
pub(crate) use off::{NoSpan as AttemptSpan, NoTrace as RequestTrace};
#[cfg(feature = "otel")]
pub(crate) use queue::Traces;
#[cfg(feature = "otel")]
pub(crate) use span::{AttemptSpan, RequestOrigin, RequestTrace};
