"""python-socketio on uvicorn, as a user would write it: its port from PORT. Started by stickyd in tests/spawn/apps.rs."""

import os

import socketio
import uvicorn

sio = socketio.AsyncServer(async_mode="asgi")
number_of_worker = os.environ["STICKYD_INSTANCE"]


@sio.event
async def whoami(sid):
    return number_of_worker


@sio.event
async def n(sid, number):
    await sio.emit("n", (number, number_of_worker), to=sid)


async def health(scope, receive, send):
    """Answers everything that is not Socket.IO."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"ok " + number_of_worker.encode()})


uvicorn.run(socketio.ASGIApp(sio, health), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning",
            timeout_graceful_shutdown=1)
