#!/usr/bin/env python3
"""What slow clients cost, by hand: ./slow.py path/to/stickyd [kind,kind…|all] [count]

Starts stickyd (one thread) before the bench backend (built by ./bench) and a worker that takes bodies and never answers,
opens `count` (400) clients of one kind, and says what each costs in anonymous memory at the end and at the worst, and how long an innocent
client's requests take meanwhile, beside those before. Kinds:

    silent, head (a byte a second), idle (after a request), body (a byte a second of an upload), unread (a 2 MB answer that
    nobody reads); the same with -tls; over HTTP/2: h2-silent, h2-body, h2-unread, h2-shut (its windows stay shut)

and floods, each one client that comes again whenever it is cut: toggle (SETTINGS that open and shut the windows of 120 answers),
updates (WINDOW_UPDATE for them). Their memory is in all, and their CPU a hundred thousand frames.
"""

import os
import re
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PORT, TLS, BACKEND, SINK, CALM = 28180, 28181, 28190, 28191, 28192
FOR = 6.0
H1 = ["silent", "head", "idle", "body", "unread"]
FLOODS = ["toggle", "updates"]
KINDS = H1 + [kind + "-tls" for kind in H1] + ["h2-silent", "h2-body", "h2-unread", "h2-shut"] + FLOODS
CONFIG = """
threads = 1
state_dir = "."
[[listener]]
address = "127.0.0.1:%d"
[[listener]]
address = "127.0.0.1:%d"
tls = { certificate = "cert.pem", key = "key.pem" }
[upstream.app]
workers = ["127.0.0.1:%d"]
[upstream.sink]
workers = ["127.0.0.1:%d"]
[upstream.calm]
workers = ["127.0.0.1:%d"]
[[route]]
path = "/sink"
upstream = "sink"
[[route]]
path = "/1k"
upstream = "calm"
[[route]]
upstream = "app"
""" % (PORT, TLS, BACKEND, SINK, CALM)


def sink():
    """Takes whatever comes, and says nothing."""
    server = socket.create_server(("127.0.0.1", SINK), backlog=1000)
    while True:
        client, _ = server.accept()
        threading.Thread(target=lambda io=client: [None for _ in iter(lambda: io.recv(65536), b"")], daemon=True).start()


def probe(seconds):
    """An innocent client: its request times in ms, in order of size, on standard output."""
    client, times, end = socket.create_connection(("127.0.0.1", PORT)), [], time.monotonic() + float(seconds)
    while time.monotonic() < end:
        began, got = time.perf_counter(), b""
        client.sendall(b"GET /1k HTTP/1.1\r\nHost: a\r\n\r\n")
        while len(got.partition(b"\r\n\r\n")[2]) < 1024:
            got += client.recv(65536)
        times.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.005)
    print(*sorted(times))


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def ask_h2(method, path, end, stream=1):
    """Literal fields, none of them indexed (RFC 7541 §6.2.2)."""
    fields = [(b":method", method), (b":scheme", b"https"), (b":authority", b"a"), (b":path", path)]
    block = b"".join(b"\0" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)
    return frame(1, 5 if end else 4, stream, block)


def connect(kind):
    """A client of this kind, and what it sends each second from then on."""
    secured = kind.endswith("-tls") or kind.startswith("h2-")
    # A small window of its own, so that the kernel holds little of what it does not read.
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", TLS if secured else PORT))
    if secured:
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["h2" if kind.startswith("h2-") else "http/1.1"])
        client = context.wrap_socket(client)
    drip, what = b"", kind.removesuffix("-tls").removeprefix("h2-")
    if kind.startswith("h2-"):
        window = {"unread": 2**31 - 1, "shut": 0, "flood": 0}.get(what, 65535)
        settings = frame(4, 0, 0, b"\0\x04" + window.to_bytes(4, "big"))
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        if what == "unread":
            client.sendall(frame(8, 0, 0, (2**31 - 1 - 65535).to_bytes(4, "big")))
        if what in ("unread", "shut"):
            client.sendall(ask_h2(b"GET", b"/2m", True))
        if what == "body":
            client.sendall(ask_h2(b"POST", b"/sink", False))
            drip = frame(0, 0, 1, b"x")
    elif what == "head":
        client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        drip = b"x"
    elif what == "idle":
        client.sendall(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.recv(65536)
    elif what == "body":
        client.sendall(b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx")
        drip = b"x"
    elif what == "unread":
        client.sendall(b"GET /2m HTTP/1.1\r\nHost: a\r\n\r\n")
    return client, drip


def flood(kind, until):
    """One connection's frames; how many."""
    client, _ = connect("h2-flood")
    client.settimeout(0.5)
    client.sendall(b"".join(ask_h2(b"GET", b"/2m", True, stream) for stream in range(1, 241, 2)))
    time.sleep(0.5)
    if kind == "toggle":
        some = b"".join(frame(4, 0, 0, b"\0\x04" + window.to_bytes(4, "big")) for window in (1, 0)) * 50
    else:
        some = b"".join(frame(8, 0, stream, (1).to_bytes(4, "big")) for stream in range(1, 201, 2))
    sent = 0
    try:
        while time.monotonic() < until:
            client.sendall(some)
            sent += 100
            client.setblocking(False)
            try:
                while client.recv(65536):
                    pass
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            client.settimeout(0.5)
    except OSError:
        pass
    client.close()
    return sent


def anonymous(pid):
    return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def cpu(pid):
    return sum(int(Path(f"/proc/{pid}/task/{t}/schedstat").read_text().split()[0]) for t in os.listdir(f"/proc/{pid}/task")) / 1e9


def percentile(times, share):
    return times[min(len(times) - 1, int(len(times) * share))]


def innocent(during):
    """The times of an innocent client while `during` runs."""
    command = [sys.executable, __file__, "--probe", str(FOR)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        during()
        return [float(word) for word in process.stdout.read().split()]


def measure(binary, kind, count):
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        (here / "s.toml").write_text(CONFIG, encoding="utf-8")
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -subj /CN=a"
        subprocess.run(make.split() + ["-addext", "subjectAltName=DNS:a"], cwd=here, check=True, capture_output=True)
        log = open(here / "log", "w", encoding="utf-8")
        stickyd = subprocess.Popen([binary, "run", "--config", str(here / "s.toml")], stderr=log)
        try:
            time.sleep(6)  # until checks have found the workers
            alone = innocent(lambda: None)
            base, held, clients, spent = anonymous(stickyd.pid), [], [], cpu(stickyd.pid)

            def floods():
                end, done = time.monotonic() + FOR, 0
                watch = threading.Thread(target=lambda: [held.append(anonymous(stickyd.pid) - base) or time.sleep(0.1) for _ in range(int(FOR * 10))])
                watch.start()
                while time.monotonic() < end:
                    done += flood(kind, end)
                watch.join()
                used = cpu(stickyd.pid) - spent
                print(f"{kind}: {done} frames, {used * 1e5 / done:.3f} s CPU a hundred thousand (an innocent client's in it)")

            def slow():
                end = time.monotonic() + FOR
                while time.monotonic() < end:
                    while len(clients) < count:
                        clients.append(connect(kind))
                        held.append(anonymous(stickyd.pid) - base)
                    for client, drip in clients:
                        try:
                            client.sendall(drip) if drip else None
                        except OSError:
                            pass
                    for _ in range(10):
                        time.sleep(0.1)
                        held.append(anonymous(stickyd.pid) - base)

            each = 1 if kind in FLOODS else count
            times = innocent(floods if kind in FLOODS else slow)
            print(
                f"{kind:12} {held[-1] / each / 1024:6.1f} KiB each, {max(held) / each / 1024:6.1f} at worst   p50 {statistics.median(times):6.2f} ms  "
                f"p99 {percentile(times, 0.99):7.2f} ms  max {times[-1]:7.2f} ms   (alone: p99 {percentile(alone, 0.99):.2f} ms)  "
                f"CPU {cpu(stickyd.pid) - spent:.2f} s",
                flush=True,
            )
        finally:
            stickyd.kill()
            stickyd.wait()


def main():
    if sys.argv[1] == "--probe":
        return probe(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    binary, kinds, count = (sys.argv[1:] + ["all", "400"][len(sys.argv) - 2 :])[:3]
    backend = Path(os.environ.get("BENCH_BACKEND", HERE / "target/release/bench-backend"))
    # The innocent client's worker is another one: what a worker does for slow clients is not the proxy's doing.
    backends = [subprocess.Popen([backend, "--port", str(port), "--workers", "1"]) for port in (BACKEND, CALM)]
    threading.Thread(target=sink, daemon=True).start()
    try:
        for kind in KINDS if kinds == "all" else kinds.split(","):
            measure(binary, kind, int(count))
    finally:
        for backend in backends:
            backend.kill()
            backend.wait()


main()
