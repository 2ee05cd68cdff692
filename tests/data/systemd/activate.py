"""Starts a program as systemd's socket activation does: NAME=KIND:HOST:PORT ... -- PROGRAM ARGUMENTS

KIND is tcp, bound (tcp without listening) or udp. The sockets are descriptors 3 and up. `--pid N` first: another
LISTEN_PID.
`--again` first: the program is started again whenever it ends, on the same sockets.
"""

import ctypes
import fcntl
import os
import signal
import socket
import sys

split = sys.argv.index("--")
specs, program = sys.argv[1:split], sys.argv[split + 1 :]
pid, again = None, False
if specs[0] == "--pid":
    pid, specs = specs[1], specs[2:]
elif specs[0] == "--again":
    again, specs = True, specs[1:]
names, high = [], []
for spec in specs:
    name, at = spec.split("=", 1)
    kind, at = at.split(":", 1)
    host, port = at.rsplit(":", 1)
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((host, int(port)))
    if kind == "tcp":
        one.listen(64)
    names.append(name)
    # Out of the way first: a socket may have one of the numbers another one is to get.
    high.append(fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 100))
for i, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + i, inheritable=True)
    os.close(descriptor)
while again:
    if os.fork() == 0:
        # Ends with us.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        break
    os.wait()
pid = pid or str(os.getpid())
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_PID=pid, LISTEN_FDNAMES=":".join(names))
os.execv(program[0], program)
