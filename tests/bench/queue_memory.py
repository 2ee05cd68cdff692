#!/usr/bin/env python3
"""Memory of queued messages in a real Redis: a million, for users with 100, 10 or 1 message each.

Writes what stickyd writes (src/queue/list.rs): a list per user with sealed messages, the users of the upstream by
expiry, and the number of messages of each. With --stream, one stream per user instead, for comparison. Prints one JSON
line per row.

    tests/bench/queue_memory.py [--messages 1000000] [--payload 100] [--stream] [--server redis-server]
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time

# Version, kind, time, and the lengths of five texts; id, label, value and namespace of an ordinary message.
PLAIN = 2 + 8 + 5 + 27 + 4 + 8 + 0
# The time of expiry before the sealed part, its nonce and its tag.
SEALED = 8 + 12 + 16


def encoded(*parts):
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        part = part if isinstance(part, bytes) else str(part).encode()
        out.append(b"$%d\r\n%s\r\n" % (len(part), part))
    return b"".join(out)


class Redis:
    def __init__(self, program):
        self.folder = tempfile.mkdtemp(prefix="queue-memory-")
        path = os.path.join(self.folder, "redis.sock")
        # Debian's redis-tools has the server under the name of a tool; it decides by its name what it is.
        server = os.path.join(self.folder, "redis-server")
        os.symlink(os.path.realpath(shutil.which(program) or shutil.which("redis-check-rdb")), server)
        arguments = ["--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", self.folder]
        self.process = subprocess.Popen([server, *arguments], stdout=subprocess.DEVNULL)
        self.link = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.link.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        self.replies = self.link.makefile("rb")

    def run(self, commands):
        self.link.sendall(b"".join(commands))
        for _ in commands:
            line = self.replies.readline()
            assert not line.startswith(b"-"), line
            if line.startswith(b"$"):
                size = int(line[1:])
                yield self.replies.read(size + 2)[:-2] if size >= 0 else None
            else:
                yield line

    def memory(self):
        (info,) = self.run([encoded("INFO", "memory")])
        return int(next(line for line in info.split(b"\r\n") if line.startswith(b"used_memory:")).split(b":")[1])

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)


def row(options, per_user):
    redis = Redis(options.server)
    before, size, batch = redis.memory(), SEALED + PLAIN + options.payload, []

    def flush():
        for _ in redis.run(batch):
            pass
        batch.clear()

    # Messages of different users alternate, as in life.
    users = [os.urandom(16) for _ in range(options.messages // per_user)]
    for number in range(per_user):
        for user in users:
            hashed = user.hex()[:22]
            value = os.urandom(size)
            if options.stream:
                batch.append(encoded("XADD", f"stickyd:{{ctl}}:q:{hashed}", "*", "m", value))
            else:
                batch.append(encoded("RPUSH", f"stickyd:{{ctl}}:q:{hashed}", value))
                batch.append(encoded("HINCRBY", "stickyd:{ctl}:qh:x", "n", 1))
                batch.append(encoded("HINCRBY", "stickyd:{ctl}:qh:x", user, 1))
            batch.append(encoded("EXPIRE", f"stickyd:{{ctl}}:q:{hashed}", 691_200))
            if number == 0:
                batch.append(encoded("ZADD", "stickyd:{ctl}:qu:x", 1_764_374_400_000 + number, user))
            if len(batch) >= 1_000:
                flush()
    flush()
    used = redis.memory() - before
    redis.stop()
    return {
        "kind": "stream" if options.stream else "list",
        "messages": per_user * len(users),
        "per_user": per_user,
        "payload_bytes": options.payload,
        "used_bytes": used,
        "per_message_bytes": round(used / (per_user * len(users))),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--payload", type=int, default=100)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--server", default="redis-server")
    options = parser.parse_args()
    for per_user in (100, 10, 1):
        print(json.dumps(row(options, per_user)), flush=True)


if __name__ == "__main__":
    main()
