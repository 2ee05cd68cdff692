#!/usr/bin/env python3
"""What lists of many sockets and broadcasts to them cost those who echo meanwhile, by hand:

    ./sockets.py path/to/stickyd [sockets] [echoes a second] [threads] [rounds]

Opens the sockets (9,000) and, on 16 sockets of another upstream, echoes at a fixed rate (2,000 a second; each is timed from
when it was due, so a stall counts for all that it delays). Meanwhile, in each of 20 rounds: a second of nothing, a second
of one list of all sockets after the other, a second of nothing, one broadcast to all of them, a second of nothing, a second
of what a page does: a live stream, and ten lists or searches of 100 rows. Says how long these take, and the echo's p99: the
median of its seconds (one broadcast is one of them), and that of all echoes. It is from 150 us to some milliseconds from one calm second to the next on a machine of two cores, so only what is interleaved
compares. The builds of `cargo build --release` in this folder have to be there. The file limit must be over
twice the number of sockets.
"""

import array
import bisect
import collections
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import many_sockets

# Seconds between two searches of a page: a fast typist presses a key this often, and the page asks at each.
SEARCH_EVERY = 0.1
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
    """One request on a connection of its own: the milliseconds until all of the answer was read, and its text; without `keep`
    its end. A long one is read in small pieces: joining megabytes holds a core for longer than an echo may take, and whoever
    asks is on another machine as a rule."""
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(path)
        admin.sendall(b"%s HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
        room, answer, end = bytearray(1 << 16), b"", b""
        while count := admin.recv_into(room):
            end = bytes(end + room[max(0, count - 8):count])[-8:]
            if keep or not answer:
                answer += room[:count]
    took = (time.monotonic() - began) * 1_000
    start, _, text = answer.partition(b"\r\n\r\n")
    assert b" 200 " in start.split(b"\r\n")[0], answer[:500]
    return took, text if keep else end


def listed(admin, until):
    """One list after the other; how long each took."""
    took = []
    while time.monotonic() < until:
        ms, end = ask(admin, b"GET /api/v1/sockets?limit=10000", keep=False)
        # Its last piece, and none behind it: half a list is quicker, too.
        assert end.endswith(b"}\r\n0\r\n\r\n"), end
        took.append(ms)
    return took


SEARCHES = ["sort=-bytes", "sort=connected", "upstream=many&state=open", "address=127.0.0.1&transport=websocket", "min_age=1s"]


def paged(admin, until):
    """What an open page does while a fast typist searches: the live stream, and lists; how long each of these took."""
    took = []
    with socket.socket(socket.AF_UNIX) as live:
        live.connect(admin)
        live.sendall(b"GET /api/v1/live?range=1h HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in live.recv(64), "no live stream"
        live.setblocking(False)
        for search in itertools.cycle(SEARCHES):
            if time.monotonic() >= until:
                return took
            took.append(ask(admin, f"GET /api/v1/sockets?limit=100&{search}".encode(), keep=False)[0])
            time.sleep(SEARCH_EVERY)
            try:
                live.recv(1 << 20)
            except BlockingIOError:
                pass


def told(admin, count):
    """One broadcast; how long it took."""
    ms, text = ask(admin, b"POST /api/v1/broadcast", b'{"upstream":"many","text":"back in five minutes"}')
    assert json.loads(text)["reached"] == count, text
    return [ms]


def rounds(admin, count, number):
    """What was done when, by the monotonic clock, and how long each list or broadcast took."""
    # Whoever asks gives way: it is on another machine as a rule.
    os.setpriority(os.PRIO_PROCESS, 0, min(19, os.nice(0) + 10))
    spans, took = [], {"lists": [], "broadcasts": [], "page": []}

    def during(what, do):
        began = time.monotonic_ns()
        do()
        spans.append((what, began, time.monotonic_ns()))
        # What it has left in queues is nobody's.
        time.sleep(0.05)

    for _ in range(number):
        during("calm", lambda: time.sleep(1))
        during("lists", lambda: took["lists"].extend(listed(admin, time.monotonic() + 1)))
        during("calm", lambda: time.sleep(1))
        during("broadcasts", lambda: took["broadcasts"].extend(told(admin, count)))
        during("calm", lambda: time.sleep(1))
        during("page", lambda: took["page"].extend(paged(admin, time.monotonic() + 1)))
    return spans, took


def report(trace, spans, took):
    """The echo's times of each kind of span."""
    numbers = array.array("Q", open(trace, "rb").read())
    echoes = sorted(zip(numbers[::2], numbers[1::2]))
    dues = [due for due, _ in echoes]
    seen = collections.defaultdict(list)
    for what, began, ended in spans:
        seen[what].append(sorted(took for _, took in echoes[bisect.bisect(dues, began):bisect.bisect(dues, ended)]))
    at = lambda times, share: times[int(share * len(times))] / 1_000
    still = statistics.median(at(times, 0.99) for times in seen["calm"])
    for what, spans in seen.items():
        p99 = statistics.median(at(times, 0.99) for times in spans)
        times = sorted(itertools.chain(*spans))
        line = f"{what:11} p99 {p99:5.0f} us, {p99 / still:.2f} of calm; of all {len(times)} echoes"
        line += "".join(f"  p{100 * share:g} {at(times, share):.0f}" for share in (0.5, 0.9, 0.99, 0.999)) + " us"
        if done := took.get(what):
            line += f"; {len(done)}: median {statistics.median(done):.0f} ms, longest {max(done):.0f} ms"
        print(line, flush=True)


def main():
    stickyd, count, rate, threads, number = (sys.argv[1:] + ["9000", "2000", "1", "20"][len(sys.argv) - 2:])[:5]
    count, rate, number = int(count), int(rate), int(number)
    with tempfile.TemporaryDirectory() as directory, many_sockets.open_to(
        stickyd, directory, CONFIG, PORT, WORKERS, count, threads=threads) as (_, running):
        admin = f"{directory}/admin"
        print("load of the machine before:", open("/proc/loadavg").read().strip(), flush=True)
        seconds = number * (5.5 + 1 + 2 * count / 9_000)
        words = ["open-loop", "--ws", "--path", "/echo", "--conns", 16, "--rate", rate, "--secs", seconds, "--warm", 1,
                 "--port", PORT, "--trace", f"{directory}/trace"]
        echo = subprocess.Popen([f"{many_sockets.BUILT}/bench-load", *map(str, words)], stdout=subprocess.PIPE, text=True)
        running.append(echo)
        time.sleep(1.1)
        spans, took = rounds(admin, count, number)
        assert echo.poll() is None, "the rounds took longer than the echoes"
        said = json.loads(echo.communicate()[0])
        assert not said["errs"] and not said["drops"], said
        report(f"{directory}/trace", spans, took)


main()
