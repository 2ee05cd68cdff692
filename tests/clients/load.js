// Drives clients against one or more servers and says what they saw. Options: one JSON object, as the argument or as
// the first line of stdin; then commands, one a line. The last line of stdout is the result, `{"event":"result", …}`;
// see README.md for all shapes. Every run ends by itself (`timeout`); the exit code is 0 unless this program itself is
// wrong.
'use strict';
const readline = require('readline');
const { seen } = require('./lib/observe'); // first: it must see every request
const { routes } = require('./lib/route');
const { Tally } = require('./lib/tally');

const KINDS = { io: () => require('./lib/io_client').IoClient, raw: () => require('./lib/raw_client').RawClient };

const lines = readline.createInterface({ input: process.stdin });
const given = process.argv[2];
let run = given ? start(JSON.parse(given)) : null;
lines.on('line', (line) => {
  if (!run) run = start(JSON.parse(line));
  else if (line.trim()) run.command(line.trim());
});
// Clients must not outlive a test that died. On a terminal or a pipe, the end of stdin does not stop a run that ends by
// itself.
lines.on('close', () => run?.keep && run.finish('stdin closed'));

function start(options) {
  const { n = 1, ramp = 0, messages = 10, keep = false, timeout = 60000, events = false } = options;
  const print = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
  const watchers = [];
  let finished = false;
  const emit = (event, fields) => {
    if (finished) return; // the result is the last line
    if (events) print(event, fields);
    for (const watch of watchers) watch(event);
  };
  const tally = new Tally({ n, emit });
  const route = routes(options);
  const raw = options.kind === 'raw' || options.transports === 'jsonp' || options.sharedAgent;
  const Client = KINDS[raw ? 'raw' : 'io']();
  const endless = messages === 'endless';
  const upgrades = !raw && (!Array.isArray(options.transports) || options.transports.length > 1);

  const finish = async (why) => {
    if (finished) return;
    finished = true;
    clearTimeout(limit);
    const result = tally.result(seen); // before the clients leave
    print('result', { why, timed_out: why === 'timeout', ...result });
    // Goodbyes go out, but a server that does not answer is not waited for without end.
    await Promise.race([
      Promise.all(tally.clients.map((c) => c.stop())).then(() => new Promise((r) => setTimeout(r, 50))),
      new Promise((r) => setTimeout(r, 5000)),
    ]);
    process.exit(0);
  };
  const limit = setTimeout(() => finish('timeout'), timeout);
  if (options.duration) setTimeout(() => finish('duration'), options.duration);

  // Without `keep` a run is over when everything came back, and default clients are on WebSocket or have given it up.
  const settled = () => !upgrades || tally.clients.every((c) => c.transport === 'websocket' || c.stays);
  if (!keep && !endless && !options.duration) {
    watchers.push(() => {
      if (!tally.reached['all-connected'] || !(messages === 0 || tally.reached['all-echoed'])) return;
      if (settled()) finish('done');
    });
  }

  const startOne = (i) => {
    const client = new Client(i, options, route(i), tally);
    tally.clients.push(client);
    client.send(endless ? Infinity : messages);
  };
  for (let i = 0; i < n; i++) {
    if (ramp) setTimeout(startOne, i * ramp, i);
    else startOne(i);
  }

  const commands = {
    stop: () => finish('stop'),
    send: (count) => {
      tally.rearm('all-echoed');
      for (const c of tally.clients) c.send(count === 'endless' ? Infinity : Number(count));
    },
    hold: () => tally.clients.forEach((c) => c.hold()),
    go: () => tally.clients.forEach((c) => c.go()),
    status: () => print('status', tally.result(seen)),
  };
  return {
    keep: keep || endless,
    finish,
    command(line) {
      const [name, ...args] = line.split(/\s+/);
      if (!commands[name]) throw new Error(`unknown command ${name}`);
      commands[name](...args);
    },
  };
}
