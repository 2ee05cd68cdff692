#!/usr/bin/env python3
"""How evenly a drain ends its sessions, by hand: ./drain.py path/to/stickyd [tunnel|polling] [count] [grace_s]

Starts stickyd (two threads) before one worker of this process, opens `count` sessions, drains the worker over the grace and
says the most that ended within any second, beside the mean. The file limit must be over twice `count`.
"""

import asyncio
import base64
import bisect
import hashlib
import json
import subprocess
import sys
import tempfile
import time

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
PORT, WORKER = 28080, 28081
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
made = 0


async def worker(reader, writer):
    """Grants every upgrade and answers its Close; makes polling sessions and lets their polls wait."""
    global made
    try:
        while True:
            start = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
            if b"websocket" in start:
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\n" + UPGRADE + b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n")
                if echo := await reader.read(100):
                    writer.write(b"\x88\x02" + echo[6:8])
                await reader.read()
                break
            if b"sid=" in start:
                await reader.read()
                break
            made += 1
            body = b'0{"sid":"S%019d","upgrades":[],"pingInterval":250000,"pingTimeout":200000}' % made
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def get(reader, writer, query, more=b""):
    writer.write(b"GET /socket.io/?EIO=4&transport=" + query + b" HTTP/1.1\r\nHost: a\r\n" + more + b"\r\n")
    return await reader.readuntil(b"\r\n\r\n")


async def client(kind, turn, opened, ended):
    async with turn:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        if kind == "tunnel":
            more = UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
            head = await get(reader, writer, b"websocket", more)
            assert b" 101 " in head.split(b"\r\n")[0], head
        else:
            await get(reader, writer, b"polling")
            sid = json.loads((await reader.readuntil(b"}"))[1:])["sid"].encode()
            writer.write(b"GET /socket.io/?EIO=4&transport=polling&sid=" + sid + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    opened.append(kind)
    if kind == "tunnel":
        close = await reader.readexactly(4)
        how = int.from_bytes(close[2:4], "big")
        writer.write(b"\x88\x82\0\0\0\0" + close[2:4])
        ended.append((time.monotonic(), how))
        await reader.read()
    else:
        answer = await reader.readuntil(b"}")
        ended.append((time.monotonic(), answer.split(b"\r\n\r\n")[1].decode()))
    writer.close()


async def run(kind, count, grace, directory):
    await asyncio.sleep(6)  # until checks have found the worker
    opened, ended, turn = [], [], asyncio.Semaphore(50)
    clients = [asyncio.create_task(client(kind, turn, opened, ended)) for _ in range(count)]
    while len(opened) < count:
        await asyncio.sleep(0.2)
        for broken in (task for task in clients if task.done()):
            broken.result()
    began = time.monotonic()
    url, body = "http://localhost/api/v1/workers/app/w/drain", json.dumps({"grace": f"{grace}s"})
    curl = ["curl", "-s", "--unix-socket", f"{directory}/admin.sock", "-X", "POST", url, "-d", body,
            "-H", "Content-Type: application/json", "-H", "X-Stickyd: 1"]
    await (await asyncio.create_subprocess_exec(*curl)).wait()
    await asyncio.wait_for(asyncio.gather(*clients), grace + 30)
    at = sorted(when - began for when, _ in ended)
    most = max(bisect.bisect_left(at, when + 1) - index for index, when in enumerate(at))
    print(f"\n{count} {kind} sessions over {grace} s: {set(how for _, how in ended)}; first {at[0]:.2f} s, last {at[-1]:.2f} s;")
    print(f"mean {count / grace:.1f} a second, at most {most} in any second: {most * grace / count:.3f} x the mean")


async def main():
    binary, kind, count, grace = (sys.argv[1:] + ["tunnel", "9000", "60"][len(sys.argv) - 2 :])[:4]
    server = await asyncio.start_server(worker, "127.0.0.1", WORKER, backlog=1000)
    with tempfile.TemporaryDirectory() as directory:
        with open(f"{directory}/s.toml", "w", encoding="utf-8") as file:
            file.write(f'threads = 2\nstate_dir = "."\n[[listener]]\naddress = "127.0.0.1:{PORT}"\n')
            file.write(f'[upstream.app]\nworkers = [{{ address = "127.0.0.1:{WORKER}", name = "w" }}]\n')
        stickyd = subprocess.Popen([binary, "run", "--config", f"{directory}/s.toml"])
        try:
            await run(kind, int(count), int(grace), directory)
        finally:
            stickyd.kill()
            stickyd.wait()
            server.close()


asyncio.run(main())
