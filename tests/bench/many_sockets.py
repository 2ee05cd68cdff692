"""Many idle WebSockets through one stickyd, for what is measured beside them."""

import contextlib
import json
import os
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILT = os.environ.get("BENCH_TARGET", f"{HERE}/target/release")


@contextlib.contextmanager
def open_to(stickyd, directory, config, port, workers, sockets, **words):
    """Starts workers on the ports from `port` + 10 on, a stickyd with this configuration, and the sockets to the upstream of
    `/`. Gives the process of stickyd, and the list of processes that are ended at the end."""
    addresses = json.dumps([f"127.0.0.1:{port + 10 + n}" for n in range(workers)])
    with open(f"{directory}/stickyd.toml", "w") as file:
        file.write(config.format(directory=directory, port=port, workers=addresses, **words))
    backend = [f"{BUILT}/bench-backend", "--port", str(port + 10), "--workers", str(workers), "--threads", "1"]
    running = [subprocess.Popen(backend, stdout=subprocess.DEVNULL)]
    try:
        log = open(f"{directory}/log", "w")
        proxy = subprocess.Popen([stickyd, "run", "--config", f"{directory}/stickyd.toml"], stdout=log, stderr=log)
        running.append(proxy)
        time.sleep(2)
        load = ["ws-idle", "--interactive", "--settle", "1", "--conns", str(sockets), "--port", str(port)]
        many = subprocess.Popen([f"{BUILT}/bench-load", *load], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(many)
        opened = json.loads(many.stdout.readline())
        assert opened["open"] == sockets, opened
        yield proxy, running
    finally:
        # In peace: a build that writes a profile does so at its end.
        for process in reversed(running):
            process.terminate()
            process.wait()
