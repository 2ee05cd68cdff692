#!/usr/bin/env python3
"""What lists of many sockets and broadcasts to them cost those who echo meanwhile, by hand:

    ./sockets.py path/to/stickyd [sockets] [echoes a second] [threads]

Opens the sockets (9,000) and, on 16 sockets of another upstream, echoes at a fixed rate (2,000 a second; each is timed from
when it was due, so a stall counts for all that it delays). Says how long lists of all sockets and broadcasts to them take,
and the echo's p50 and p99: calm, while a list is asked for each second, while one list follows the other, while one
broadcast follows the other. The builds of `cargo build --release` in this folder have to be there. The file limit must be over
twice the number of sockets.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILT = os.environ.get("BENCH_TARGET", f"{HERE}/target/release")
PORT, WORKERS = 21300, 4
CONFIG = """
threads = {threads}
state_dir = "{directory}"
[[listener]]
address = "127.0.0.1:{port}"
[[route]]
path = "/echo"
upstream = "echo"
[[route]]
upstream = "many"
[upstream.echo]
workers = {workers}
[upstream.many]
workers = {workers}
broadcast = true
[limits]
connections_per_address = 40000
tunnels_per_address = 40000
[admin]
address = "unix:{directory}/admin"
"""


def ask(path, head, body=b"", keep=True):
    """One request on a connection of its own: the milliseconds until all of the answer was read, its length, its text. A long
    one is read in small pieces and not kept: joining megabytes holds a core for longer than an echo may take, and whoever
    asks is on another machine as a rule."""
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(path)
        admin.sendall(b"%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
        room, answer, length = bytearray(1 << 16), b"", 0
        while count := admin.recv_into(room):
            length += count
            if keep or not answer:
                answer += room[:count]
    took = (time.monotonic() - began) * 1_000
    start, _, text = answer.partition(b"\r\n\r\n")
    assert b" 200 " in start.split(b"\r\n")[0], answer[:500]
    return took, length - len(start) - 4, text


def echo(seconds, rate):
    """Starts echoing; what it says once that is over is one line of JSON."""
    words = ["open-loop", "--ws", "--path", "/echo", "--conns", "16", "--rate", rate, "--secs", seconds, "--warm", 1, "--port", PORT]
    return subprocess.Popen([f"{BUILT}/bench-load", *map(str, words)], stdout=subprocess.PIPE, text=True)


def meanwhile(what, rate, seconds, do=None):
    """Echoes, and does that meanwhile; the p99 in microseconds."""
    running = echo(seconds, rate)
    time.sleep(1.1)
    told = []
    if do:
        # Here it gives way.
        def asking():
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.nice(0) + 10))
            told.append(do(time.monotonic() + seconds - 0.2))
        thread = threading.Thread(target=asking)
        thread.start()
        thread.join()
    said = json.loads(running.communicate()[0])
    assert not said["errs"] and not said["drops"], said
    print(f"{what:34} echo p50 {said['p50_us']:7.0f} us  p99 {said['p99_us']:7.0f} us  max {said['max_us']:7.0f} us  {' '.join(told)}", flush=True)
    return said["p99_us"]


def lists(admin, pause):
    def do(until):
        took = []
        while time.monotonic() < until:
            ms, size, _ = ask(admin, b"GET /api/v1/sockets?limit=10000", keep=False)
            took.append(ms)
            time.sleep(max(0, pause - ms / 1_000))
        return f"{len(took)} lists of {size / 1e6:.1f} MB: median {statistics.median(took):.0f} ms, longest {max(took):.0f} ms"
    return do


def broadcasts(admin, count):
    def do(until):
        took = []
        while time.monotonic() < until:
            ms, _, text = ask(admin, b"POST /api/v1/broadcast", b'{"upstream":"many","text":"back in five minutes"}')
            assert json.loads(text)["reached"] == count, text
            took.append(ms)
        return f"{len(took)} broadcasts, each reached {count}: median {statistics.median(took):.0f} ms, longest {max(took):.0f} ms"
    return do


def main():
    stickyd, count, rate, threads = (sys.argv[1:] + ["9000", "2000", "1"][len(sys.argv) - 2:])[:4]
    count, rate = int(count), int(rate)
    with tempfile.TemporaryDirectory() as directory:
        workers = [f"127.0.0.1:{PORT + 10 + n}" for n in range(WORKERS)]
        config = CONFIG.format(directory=directory, port=PORT, workers=json.dumps(workers), threads=threads)
        open(f"{directory}/stickyd.toml", "w").write(config)
        words = [f"{BUILT}/bench-backend", "--port", str(PORT + 10), "--workers", str(WORKERS), "--threads", "1"]
        running = [subprocess.Popen(words, stdout=subprocess.DEVNULL)]
        log = open(f"{directory}/log", "w")
        running.append(subprocess.Popen([stickyd, "run", "--config", f"{directory}/stickyd.toml"], stdout=log, stderr=log))
        try:
            time.sleep(2)
            words = ["ws-idle", "--interactive", "--settle", "1", "--conns", str(count), "--port", str(PORT)]
            many = subprocess.Popen([f"{BUILT}/bench-load", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            running.append(many)
            opened = json.loads(many.stdout.readline())
            assert opened["open"] == count, opened
            admin = f"{directory}/admin"
            print("load of the machine before:", open("/proc/loadavg").read().strip(), flush=True)
            calm = [meanwhile("calm", rate, 5)]
            paced = meanwhile("a list a second", rate, 12, lists(admin, 1))
            listed = meanwhile("one list after the other", rate, 5, lists(admin, 0))
            calm.append(meanwhile("calm", rate, 5))
            told = meanwhile("one broadcast after the other", rate, 5, broadcasts(admin, count))
            calm.append(meanwhile("calm", rate, 5))
            still = statistics.median(calm)
            print(f"p99 over calm: {paced / still:.2f} a list a second, {listed / still:.2f} lists, {told / still:.2f} broadcasts")
        finally:
            # In peace: a build that writes a profile does so at its end.
            for process in reversed(running):
                process.terminate()
                process.wait()


main()
