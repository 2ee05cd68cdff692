"""Runs a program on a terminal of its own (a pty) and shows what is on its screen.

usage: terminal.py COLUMNSxROWS PROGRAM [ARGUMENT…]. One command per line of stdin, as JSON; one answer per line:

  {"do": "see", "text": …}   waits until the screen has the text; the screen
  {"do": "gone", "text": …}  waits until it has not
  {"do": "keys", "text": …}  types; "\\r" is Enter, "\\u001b" is Escape, "\\t" is Tab
  {"do": "resize", "columns": …, "rows": …}
  {"do": "signal", "name": "TERM"}
  {"do": "end"}              waits for the end: exit code, whether the terminal is as it was before, the screen
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pyte

PATIENCE = 30


class Terminal:
    def __init__(self, columns, rows, program):
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        self.size(columns, rows)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
            os.environ["TERM"] = "xterm-256color"
            os.execvp(program[0], program)

    def size(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return
        data = os.read(self.master, 65536)
        self.raw += data
        self.stream.feed(data)

    def shown(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                return {"error": "not in time", "screen": self.shown()}
            self.read(0.05)
        return {"screen": self.shown()}

    def see(self, text):
        return self.wait(lambda: text in self.shown())

    def gone(self, text):
        return self.wait(lambda: text not in self.shown())

    def keys(self, text):
        # Keys come one by one: an escape that other keys follow at once is another key.
        for key in text:
            os.write(self.master, key.encode())
            self.read(0.02)
        return {}

    def resize(self, columns, rows):
        self.screen.resize(rows, columns)
        self.size(columns, rows)
        return {}

    def signal(self, name):
        os.kill(self.pid, getattr(signal, "SIG" + name))
        return {}

    def end(self):
        status = []

        def ended():
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                status.append(os.waitstatus_to_exitcode(code))
            return pid

        answer = self.wait(ended)
        self.read(0.2)
        if status:
            answer["code"] = status[0]
            answer["restored"] = termios.tcgetattr(self.slave) == self.before
            # The alternate screen was left, and the cursor is shown, after the last time that they were not.
            answer["left"] = self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h")
            answer["cursor"] = self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l")
        answer["screen"] = self.shown()
        return answer


def main():
    columns, rows = (int(number) for number in sys.argv[1].split("x"))
    terminal = Terminal(columns, rows, sys.argv[2:])
    known = {name: getattr(terminal, name) for name in ("see", "gone", "keys", "resize", "signal", "end")}
    for line in sys.stdin:
        command = json.loads(line)
        answer = known[command.pop("do")](**command)
        print(json.dumps(answer), flush=True)
    try:
        os.kill(terminal.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


main()
