//! One HTTP/2 stream: a request, its response, and the tunnel that it may become.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Body;
use hyper::{Method, Request, Response, StatusCode};

use super::OpenStream;
use super::inflow::Holding;
use super::send::{BodySender, head_size};
use super::translate::{self, TranslatedRequest};
use crate::listener::conn::Conn;
use crate::net::client_io::ClientIo;
use crate::net::h2_stream::StreamIo;
use crate::proxy;
use crate::proxy::request_timeout;
use crate::proxy::respond::{self, Problem};
use crate::proxy::response_body::Reply;
use crate::tunnel::Opening;

/// Serves a stream to the end of its response; a tunnel continues in a task of its own. `too_large` means that the
/// header list was too large, so that the request is not complete.
pub(crate) async fn serve(
    conn: Rc<Conn>,
    open: OpenStream,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    too_large: bool,
) {
    let stream = respond.stream_id().as_u32();
    let holding = || Holding::new(conn.inflow.get().cloned().unwrap_or_default(), stream);
    let TranslatedRequest { request, tunnel, expects, fits } =
        translate::request(request, conn.thread.limits().head_fields, holding());
    let full = || Err(Problem::Full("this client address has reached its limit of concurrent requests"));
    let fits = if too_large { Err(Problem::TooManyFields) } else { fits };
    let fits = if open.admitted { fits } else { full() };
    if expects && fits.is_ok() {
        // hyper does the same for HTTP/1; a 100 sent by a worker is not forwarded.
        let mut go_on = Response::new(());
        *go_on.status_mut() = StatusCode::CONTINUE;
        open.streams.held.head_waits(0);
        // This fails only on a stream that is closed, which the response will detect, too.
        let _ = respond.send_informational(go_on);
    }
    let to_head = request.method() == Method::HEAD;
    let Some(response) = answered(&conn, &open, request, fits, &mut respond).await else { return };
    let response = if tunnel.is_some() { refuse_success(response) } else { response };
    let (mut parts, mut reply) = response.into_parts();
    let plan = reply.take_plan();
    if plan.is_none() {
        translate::answer(&mut parts, &reply, to_head);
    } else {
        translate::dated(&mut parts.headers);
    }
    let ended = plan.is_none() && (to_head || reply.is_end_stream());
    let head = Response::from_parts(parts, ());
    open.streams.held.head_waits(head_size(head.headers()));
    let mut send = match respond.send_response(head, ended) {
        Ok(send) => send,
        Err(error) => {
            tracing::debug!(%error, "response could not be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
    };
    match (plan, tunnel) {
        (Some(plan), Some(receive)) => {
            // The request is over; its log record ends when the reply is dropped.
            drop(reply);
            begin_tunnel(&conn, open.becomes_tunnel(holding()), send, receive, *plan);
        }
        _ if ended => {}
        _ => match reply.overdue_at() {
            None => BodySender::new(&open, &mut send).body(reply).await,
            Some(at) => {
                let sending = Box::pin(BodySender::new(&open, &mut send).body(reply));
                if tokio::time::timeout_at(at, sending).await.is_err() {
                    request_timeout::reached(&conn);
                    send.send_reset(Reason::CANCEL);
                }
            }
        },
    }
}

/// Returns the response; `None` if the client resets the stream before there is one. The connection to the worker then
/// closes, as for a client that disconnects.
async fn answered(
    conn: &Rc<Conn>,
    open: &OpenStream,
    request: Request<proxy::response_body::ClientBody>,
    fits: Result<(), Problem>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Response<Reply>> {
    let mut answer = pin!(proxy::handle(conn.clone(), request, fits));
    poll_fn(|cx| {
        let polled = answer.as_mut().poll(cx);
        for interim in conn.interim.take() {
            open.streams.held.head_waits(head_size(&interim.fields));
            // This fails only on a stream that is closed.
            let _ = respond.send_informational(interim.into_response());
        }
        match polled {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        }
    })
    .await
}

/// Replaces a 2xx by a 502, because it would open a tunnel that no worker granted: a client would take its body for
/// frames (RFC 8441 §5, and CVE-2024-23326 of Envoy).
fn refuse_success(response: Response<Reply>) -> Response<Reply> {
    if response.status().is_success() && !response.body().is_tunnel() {
        return response.into_body().replaced_by(respond::problem(Problem::BadGateway));
    }
    response
}

/// Starts a tunnel like any other, with an entry of its own on the thread's list.
fn begin_tunnel(conn: &Rc<Conn>, open: OpenStream, send: SendStream<Bytes>, receive: RecvStream, plan: Opening) {
    let thread = &conn.thread;
    let live = thread.register(0, &conn.listener.removed);
    live.begin(thread.is_stopping());
    let io = ClientIo::Stream(Box::new(StreamIo::new(send, receive, open)));
    plan.begin(io, Bytes::new(), live);
}
