#!/usr/bin/env python3
"""How long honest TLS handshakes take beside clients that begin one and wait, by hand:

    ./handshakes.py path/to/stickyd [held] [per_second] [seconds]

Starts stickyd (one thread) with TLS, and measures 20 full handshakes per second: in calm; beside `held` (1,500) connections
that have sent one byte and wait; and beside `per_second` (320) new ones of that kind each second, each kept for 10 s. The
p99 is to stay below 100 ms (docs/reference/threats.md §2.6).
"""

import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PORT = 28180
RATE = 20
KEPT = 10.0
CONFIG = """
threads = 1
state_dir = "."
[[listener]]
address = "127.0.0.1:%d"
tls = { certificate = "cert.pem", key = "key.pem" }
[upstream.app]
workers = ["127.0.0.1:9"]
""" % PORT


def one_byte(number):
    """A client that begins a TLS record and waits."""
    client = socket.socket()
    # Many addresses, so that no limit per address is what is measured.
    client.bind((f"127.0.{1 + number // 250 % 250}.{1 + number % 250}", 0))
    client.connect(("127.0.0.1", PORT))
    client.send(b"\x16")
    return client


def honest(seconds):
    """The times of full handshakes, in milliseconds."""
    terms = ssl.create_default_context()
    terms.check_hostname, terms.verify_mode = False, ssl.CERT_NONE
    times, until = [], time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        with socket.create_connection(("127.0.0.1", PORT), timeout=30) as plain:
            with terms.wrap_socket(plain):
                times.append((time.monotonic() - began) * 1e3)
        time.sleep(max(0.0, 1 / RATE - (time.monotonic() - began)))
    return sorted(times)


def flood(per_second, stop):
    """Opens so many one-byte clients each second, and closes each after a while."""
    kept, number, began = [], 0, time.monotonic()
    while not stop.is_set():
        due = int((time.monotonic() - began) * per_second)
        while number < due:
            kept.append((time.monotonic(), one_byte(number)))
            number += 1
        while kept and time.monotonic() - kept[0][0] > KEPT:
            kept.pop(0)[1].close()
        time.sleep(0.005)
    for _, client in kept:
        client.close()


def row(name, times):
    at = lambda share: times[min(len(times) - 1, int(len(times) * share))]
    print(f"{name:34} {len(times):5} handshakes   p50 {at(0.5):7.1f} ms   p99 {at(0.99):7.1f} ms   max {times[-1]:7.1f} ms", flush=True)


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    binary = Path(sys.argv[1]).resolve()
    held, per_second, seconds = [int(text) for text in (sys.argv[2:] + ["1500", "320", "15"][len(sys.argv) - 2 :])]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as directory:
        openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        subprocess.run(openssl.split(), cwd=directory, check=True, capture_output=True)
        Path(directory, "stickyd.toml").write_text(CONFIG)
        stickyd = subprocess.Popen([binary, "run", "stickyd.toml"], cwd=directory, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(stickyd)
            row("calm", honest(seconds))
            clients = [one_byte(number) for number in range(held)]
            row(f"beside {held} that sent one byte", honest(seconds))
            for client in clients:
                client.close()
            stop = threading.Event()
            flooding = threading.Thread(target=flood, args=(per_second, stop))
            flooding.start()
            row(f"beside {per_second} such each second", honest(seconds))
            stop.set()
            flooding.join()
        finally:
            stickyd.send_signal(signal.SIGTERM)
            stickyd.wait()


def wait_for_port(stickyd):
    for _ in range(100):
        if stickyd.poll() is not None:
            sys.exit("stickyd did not start")
        try:
            return socket.create_connection(("127.0.0.1", PORT)).close()
        except OSError:
            time.sleep(0.1)
    sys.exit("stickyd does not listen")


if __name__ == "__main__":
    main()
