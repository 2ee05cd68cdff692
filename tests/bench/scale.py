#!/usr/bin/env python3
"""How costs grow, by hand: ./scale.py path/to/stickyd [threads,workers,sockets,memory,balance|all] [rounds]

Tables of medians beside nginx and HAProxy (`./bench` installs and builds what this needs): CPU an operation with more
threads, workers and sockets; memory a socket with more sockets; and how evenly the kernel deals long-lived sockets out to
stickyd's threads, read from the descriptors each thread's epoll watches. What pins cost stands in the micro-benches.
"""

import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOAD = HERE / "target/release/bench-load"
PEERS = ["nginx", "haproxy", "stickyd"]
# What grows, and what is run for each value of it: options, modes.
PARTS = {
    "threads": [(n, ["--threads", str(n), "--no-pin"], "http-1k,ws-64") for n in (1, 2)],
    "workers": [(n, ["--workers", str(n)], "http-1k,poll,ws-64") for n in (4, 64, 512)],
    "sockets": [(n, [], f"ws-64-{n // 1000}k") for n in (1000, 3000, 9000)],
    "memory": [(n, ["--idle-n", str(n)], "idle,idle-tls") for n in (1000, 3000, 9000)],
}


def files():
    """As many descriptors as may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def measured(stickyd, options, modes, rounds):
    """Medians by mode and peer: of CPU in µs, or of bytes."""
    with tempfile.TemporaryDirectory() as out:
        run = [HERE / "run.py", "--peers", ",".join(PEERS), "--bin", f"stickyd={stickyd}", "--modes", modes]
        subprocess.run([*run, "--rounds", rounds, "--secs", "0.8", "--out", out, *options], check=True, stdout=subprocess.DEVNULL)
        records = json.loads((Path(out) / "results.json").read_text())["records"]
    values = {}
    for record in records:
        figure = "pss_per_sock" if record["mode"].startswith("idle") else "cpu_us_op"
        mode = re.sub(r"-\dk$", "", record["mode"]) if record["mode"].startswith("ws-64") else record["mode"]
        if value := record["m"].get(figure):
            values.setdefault((mode, record["peer"]), []).append(value)
    return {key: statistics.median(all) for key, all in values.items()}


def grow(stickyd, part, rounds):
    steps = [(n, measured(stickyd, options, modes, rounds)) for n, options, modes in PARTS[part]]
    print(f"\n### {part}\n\n| | peer | " + " | ".join(f"{n:,}" for n, _ in steps) + " |\n" + "|---" * (len(steps) + 2) + "|")
    for mode in dict.fromkeys(mode for _, values in steps for mode, _ in values):
        for peer in PEERS:
            cells = [values.get((mode, peer)) for _, values in steps]
            text = ["–" if cell is None else f"{cell:,.0f}" if cell > 100 else f"{cell:.1f}" for cell in cells]
            print(f"| {mode} | {peer} | " + " | ".join(text) + " |", flush=True)


CONFIG = """
state_dir = "."
threads = %d
[[listener]]
address = "127.0.0.1:28280"
[upstream.app]
workers = ["127.0.0.1:28290-28293"]
"""


def watched(pid):
    """Descriptors each epoll of a process watches, the most first. tokio has two descriptors for each epoll."""
    counts = []
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        if watches := re.findall(r"^tfd:", info.read_text(), re.M):
            counts.append(len(watches))
    return sorted(counts, reverse=True)[::2]


def balance(stickyd):
    """Two descriptors a tunnel stay on the thread that accepted it."""
    backend = subprocess.Popen([HERE / "target/release/bench-backend", "--port", "28290", "--workers", "4", "--threads", "1"], stdout=subprocess.DEVNULL)
    print("\n### balance: sockets on the fullest thread, beside the mean\n\n| threads | sockets | fullest | mean | ratio |\n|---|---|---|---|---|")
    try:
        for threads, sockets in ((2, 500), (2, 4000), (8, 500), (8, 4000)):
            with tempfile.TemporaryDirectory() as place:
                (Path(place) / "s.toml").write_text(CONFIG % threads)
                proxy = subprocess.Popen([stickyd, "run", "--config", "s.toml"], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(1)
                load = [LOAD, "ws-idle", "--interactive", "--settle", "1", "--conns", str(sockets), "--port", "28280", "--pids", str(proxy.pid)]
                load = subprocess.Popen(load, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                load.stdout.readline()
                counts = [count // 2 for count in watched(proxy.pid)[:threads]]
                mean = sum(counts) / threads
                print(f"| {threads} | {sockets:,} | {counts[0]:,} | {mean:,.0f} | {counts[0] / mean:.2f} |", flush=True)
                load.kill()
                proxy.terminate()
                load.wait()
                proxy.wait()
    finally:
        backend.kill()


def main():
    files()
    stickyd = str(Path(sys.argv[1]).resolve())
    asked = sys.argv[2] if len(sys.argv) > 2 else "all"
    rounds = sys.argv[3] if len(sys.argv) > 3 else "3"
    for part in [*PARTS, "balance"] if asked == "all" else asked.split(","):
        balance(stickyd) if part == "balance" else grow(stickyd, part, rounds)


main()
