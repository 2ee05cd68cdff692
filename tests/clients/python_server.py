"""A foreign worker: python-socketio on aiohttp, which refuses an unknown sid in its own words (400 "Invalid session ...").

The same JSON line, routes, counters and end as server.js; --port, --name, --ping-interval, --ping-timeout (both in ms).
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter

import socketio
from aiohttp import web


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default=f"py{os.getpid()}")
    parser.add_argument("--ping-interval", type=float, default=25000)
    parser.add_argument("--ping-timeout", type=float, default=20000)
    return parser.parse_args()


def build(opt):
    stats = {"handshakes": 0, "connections": 0, "disconnects": Counter(), "refused": Counter(), "requests": Counter(), "with_sid": Counter()}

    @web.middleware
    async def count(request, handler):
        if not request.path.startswith("/socket.io/"):
            return await handler(request)
        upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        method = "WS" if upgrade else request.method
        stats["requests"][method] += 1
        sid = request.query.get("sid")
        if sid:
            stats["with_sid"][method] += 1
        response = await handler(request)
        if sid and response.status == 400 and b"Invalid session" in (getattr(response, "body", None) or b""):
            stats["refused"][method] += 1
        if not sid and response.status in (101, 200):
            stats["handshakes"] += 1
        return response

    sio = socketio.AsyncServer(
        async_mode="aiohttp", ping_interval=opt.ping_interval / 1000, ping_timeout=opt.ping_timeout / 1000
    )
    app = web.Application(middlewares=[count])
    sio.attach(app)

    @sio.event
    async def connect(sid, environ):
        stats["connections"] += 1

    @sio.event
    async def disconnect(sid, reason):
        stats["disconnects"][str(reason)] += 1

    @sio.event
    async def echo(sid, value):
        return value

    @sio.event
    async def n(sid, number):
        await sio.emit("n", (number, opt.name), to=sid)

    @sio.event
    async def whoami(sid):
        return opt.name

    async def health(_):
        return web.Response(text="ok\n")

    async def read_stats(_):
        return web.json_response({**stats, "live": sum(not s.closed for s in sio.eio.sockets.values())})

    async def follow(request):
        sid = request.headers.get("x-socket-id") or request.query.get("socketId")
        spaces = list(sio.manager.get_namespaces())
        has = sid in sio.eio.sockets or any(sio.manager.is_connected(sid, space) for space in spaces)
        return web.json_response({"worker": opt.name, "has": has}, status=200 if has else 404)

    app.router.add_route("*", "/socket", follow)
    app.router.add_get("/health", health)
    app.router.add_get("/stats", read_stats)
    return app


async def main():
    opt = options()
    runner = web.AppRunner(build(opt), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", opt.port)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "path": None, "pid": os.getpid(), "name": opt.name}), flush=True)
    # The end of stdin ends the process, so that none outlives its test.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
