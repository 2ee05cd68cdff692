//! One stream: a request, its answer, and the tunnel it may become.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Body;
use hyper::{Method, Request, Response, StatusCode};

use super::Open;
use super::translate::{self, Asked};
use crate::listener::conn::{ClientIo, Conn};
use crate::proxy;
use crate::proxy::body::Reply;
use crate::proxy::headers;
use crate::proxy::respond::{self, Problem};
use crate::tunnel::Plan;
use crate::tunnel::relay::Relay;
use crate::tunnel::stream::{Carrier, StreamIo};

/// Serves a stream to the end of its answer; a tunnel goes on in a task of its own.
pub(super) async fn serve(conn: Rc<Conn>, open: Open, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let Asked { request, tunnel, expects, fits } = translate::request(request, conn.thread.shared.limits.head_fields);
    if expects && fits.is_ok() {
        // As hyper does for HTTP/1; a worker's own goes no further than its connection.
        let mut go_on = Response::new(());
        *go_on.status_mut() = StatusCode::CONTINUE;
        // Fails only on a stream that is over, which the answer will find, too.
        let _ = respond.send_informational(go_on);
    }
    let to_head = request.method() == Method::HEAD;
    let Some(response) = answered(&conn, request, fits, &mut respond).await else { return };
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
    let send = match respond.send_response(head, ended) {
        Ok(send) => send,
        Err(error) => {
            tracing::debug!(%error, "an answer could not be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
    };
    match (plan, tunnel) {
        (Some(plan), Some(receive)) => {
            // The request is over; its record ends with this.
            drop(reply);
            begin_tunnel(&conn, open, send, receive, *plan);
        }
        _ if ended => {}
        _ => send_body(&open, send, reply).await,
    }
}

/// The answer; `None` when the client takes its request back before there is one. Then the worker's connection closes, as
/// for a client that hangs up.
async fn answered(
    conn: &Rc<Conn>,
    request: Request<proxy::body::ClientBody>,
    fits: Result<(), Problem>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Response<Reply>> {
    let mut answer = pin!(proxy::handle(conn.clone(), request, fits));
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await
}

/// A 2xx would open a tunnel that no worker granted: a client would take its body for frames (RFC 8441 §5, and
/// CVE-2024-23326 of Envoy).
fn refuse_success(response: Response<Reply>) -> Response<Reply> {
    if response.status().is_success() && !response.body().is_tunnel() {
        return response.into_body().replaced_by(respond::problem(Problem::BadGateway));
    }
    response
}

/// A tunnel like any other, with an entry of its own on the thread's list.
fn begin_tunnel(conn: &Rc<Conn>, open: Open, send: SendStream<Bytes>, receive: RecvStream, plan: Plan) {
    let thread = &conn.thread;
    let live = thread.register(0, &conn.listener.removed);
    live.begin(thread.is_stopping());
    let io = ClientIo::Stream(Box::new(StreamIo::new(send, receive, open.becomes_tunnel())));
    thread.tasks.spawn_local(Relay::new(io, Bytes::new(), plan, live));
}

/// Sends a body at the client's pace: no frame is asked of the worker before the one before it has found room.
async fn send_body(open: &Open, mut send: SendStream<Bytes>, mut body: Reply) {
    loop {
        let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => send.poll_reset(cx).map(|_| None),
        });
        let sent = match frame.await {
            // Taken back.
            None => return,
            Some(None) => {
                let _ = send.send_data(Bytes::new(), true);
                return;
            }
            Some(Some(Err(_))) => return send.send_reset(Reason::INTERNAL_ERROR),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => send_all(open, &mut send, data, body.is_end_stream()).await,
                Err(frame) => {
                    if let Ok(mut trailers) = frame.into_trailers() {
                        headers::to_client(&mut trailers, false);
                        // Fails only on a stream that is over.
                        let _ = send.send_trailers(trailers);
                    }
                    return;
                }
            },
        };
        if !sent || body.is_end_stream() {
            return;
        }
    }
}

/// Sends `data` as its windows open; whether the stream still stands.
async fn send_all(open: &Open, send: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> bool {
    while !data.is_empty() {
        // A stream that is reset meanwhile is found out below.
        poll_fn(|cx| open.poll_room(cx)).await;
        send.reserve_capacity(data.len());
        let room = match send.capacity() {
            0 => match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                _ => return false,
            },
            room => room,
        };
        let piece = data.split_to(room.min(data.len()));
        open.queued(piece.len());
        if send.send_data(piece, last && data.is_empty()).is_err() {
            return false;
        }
    }
    true
}
