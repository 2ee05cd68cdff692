// What the clients of kinds/ have in common: n sessions of one protocol, opened through a switch, asked who serves them
// when the test says so. Each kind gives a class: `open()`, `ask()` → the worker's name, `close()`, and calls
// `this.ended(reason)` when its library loses a session by itself. Options are one JSON object as the argument,
// commands come on stdin, JSON lines go out: see README.md.
'use strict';
const readline = require('readline');
const { createSwitch } = require('./switch');

/** Longer than anything takes that is going to succeed. */
const PATIENCE = 25000;

class Session {
  constructor(i, url, options) {
    Object.assign(this, { i, url, options, worker: null, asked: 0, lost: null });
  }
  /** The library has lost it; the first reason counts. */
  ended(reason) {
    if (this.closing) return;
    this.lost ??= String(reason);
    this.onEnd?.();
  }
  /** A promise that fails when the session does. */
  alive(promise) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error('no answer')), PATIENCE);
      this.onEnd = () => reject(new Error(this.lost));
      if (this.lost) this.onEnd();
      promise.then(resolve, reject).finally(() => clearTimeout(late));
    });
  }
}

function run(Kind) {
  console.log = console.error; // libraries, too: stdout is JSON
  const options = JSON.parse(process.argv[2]);
  const sessions = [];
  const way = createSwitch(options);
  const print = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
  const shared = options.hosts ? null : way.listen();

  const each = (of, work) =>
    Promise.all(
      of.map(async (session) => {
        try {
          await session.alive(work(session));
        } catch (error) {
          session.lost ??= String(error?.message || error).slice(0, 200);
        }
      }),
    );
  const status = () => {
    const lost = {};
    for (const session of sessions) if (session.lost) lost[session.lost] = (lost[session.lost] || 0) + 1;
    const workers = {};
    let moved = 0;
    for (const session of sessions) {
      if (session.worker) workers[session.worker] = (workers[session.worker] || 0) + 1;
      moved += session.moved || 0;
    }
    const held = sessions.filter((session) => !session.lost).length;
    return { sessions: sessions.length, held, asked: sessions.map((s) => s.asked), lost, moved, workers, ...way.seen };
  };

  const commands = {
    open: async (count) => {
      const more = [];
      for (let i = 0; i < Number(count); i++) {
        const number = sessions.length;
        // Hosts of their own: a cookie jar that all share must not make one browser of them.
        const url = shared ? await shared : await way.listen(`127.0.1.${1 + number}`);
        const session = new Kind(number, url, options);
        sessions.push(session);
        more.push(session);
      }
      await each(more, (session) => session.open());
      print('opened', status());
    },
    ask: async () => {
      const still = sessions.filter((session) => !session.lost);
      await each(still, async (session) => {
        const worker = await session.ask();
        if (session.lost) return; // it was another session that was answered
        session.asked++;
        if (session.worker && session.worker !== worker) session.moved = (session.moved || 0) + 1;
        session.worker = worker;
      });
      print('asked', status());
    },
    hold: async () => {
      await way.hold();
      print('held', status());
    },
    go: () => way.go(),
    status: () => print('status', status()),
    stop: async () => {
      const result = status();
      const open = sessions.filter((session) => !session.lost);
      for (const session of sessions) session.closing = true;
      const closed = Promise.all(open.map((session) => Promise.resolve(session.close()).catch(() => {})));
      await Promise.race([closed, new Promise((r) => setTimeout(r, 5000))]);
      print('result', { ...result, answers: way.seen.answers });
      process.exit(0);
    },
  };
  // One command after the other.
  let last = Promise.resolve();
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const [command, ...args] = line.trim().split(/\s+/);
    last = last.then(() => commands[command](...args));
  });
  lines.on('close', () => process.exit(0));
}

module.exports = { Session, run };
