#!/usr/bin/env python3
"""What two builds of stickyd cost while nothing happens but open sockets, by hand:

    ./idle.py BEFORE AFTER [sockets] [workers] [seconds] [rounds]

Opens the sockets (9,000) to the workers (16), waits until the opening is over, and measures the CPU time of all threads of
stickyd for the seconds (60) by the scheduler's own nanoseconds. Each round (3) measures both builds, in turns. Says the share
of a core of each round, the medians, and their difference, which is what is added with no viewer. The builds of `cargo build
--release` in this folder have to be there. The file limit must be over twice the number of sockets.
"""

import glob
import statistics
import sys
import tempfile
import time

import many_sockets

PORT = 21400
CONFIG = """
threads = 2
state_dir = "{directory}"
[[listener]]
address = "127.0.0.1:{port}"
[upstream.many]
workers = {workers}
[limits]
connections_per_address = 40000
tunnels_per_address = 40000
"""

# Seconds after the last socket was opened, in which pools, pins and the first samples come to rest.
REST = 15


def cpu_ns(pid):
    """The CPU time of all threads of a process; the first number of schedstat."""
    return sum(int(open(path).read().split()[0]) for path in glob.glob(f"/proc/{pid}/task/*/schedstat"))


def measure(stickyd, sockets, workers, seconds):
    """The share of a core that a build takes, in percent."""
    with tempfile.TemporaryDirectory() as directory, many_sockets.open_to(
        stickyd, directory, CONFIG, PORT, workers, sockets) as (proxy, _):
        time.sleep(REST)
        began, before = time.monotonic(), cpu_ns(proxy.pid)
        time.sleep(seconds)
        took, used = time.monotonic() - began, cpu_ns(proxy.pid) - before
        assert proxy.poll() is None, open(f"{directory}/log").read()
        return used / 1e9 / took * 100


def main():
    given = sys.argv[1:]
    before, after = given[:2]
    sockets, workers, seconds, rounds = map(int, (given[2:] + ["9000", "16", "60", "3"][len(given) - 2:])[:4])
    shares = {before: [], after: []}
    for number in range(rounds):
        for build in ([before, after], [after, before])[number % 2]:
            shares[build].append(measure(build, sockets, workers, seconds))
            print(f"{build}: {shares[build][-1]:.3f} % of a core", flush=True)
    first, second = statistics.median(shares[before]), statistics.median(shares[after])
    print(f"median before {first:.3f} %, after {second:.3f} %: added {second - first:.3f} % of a core")


main()
