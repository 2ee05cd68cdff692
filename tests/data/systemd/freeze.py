"""Stops one thread (its id is the argument) until standard input ends; prints `frozen`, or the error.

A signal would stop the whole process.
"""

import ctypes
import os
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
libc = ctypes.CDLL(None, use_errno=True)
thread = int(sys.argv[1])
for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
    if libc.ptrace(request, thread, None, None) != 0:
        print(os.strerror(ctypes.get_errno()), flush=True)
        sys.exit(1)
print("frozen", flush=True)
# When the tracer ends, the kernel lets the thread go on.
sys.stdin.read()
