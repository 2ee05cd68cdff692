// A fleet of three stickyds with one Redis, by hand, with a release build on a quiet machine: see README.md.
//
//   node tests/clients/fleet_200.mjs [--clients 200] [--sessions 400] [--stickyd target/release/stickyd]
//
// (1) CLIENTS official clients (Socket.IO 4: polling only, polling then WebSocket, WebSocket only; Socket.IO 2) reach
// three stickyds through a splitter that gives each new TCP connection to the next stickyd. No client may be refused,
// and at least 99 of 100 lookups of live sessions must be hits. (2) The time of a session's first request at another
// stickyd: without a fleet, with Redis, and with a stopped Redis from the sixth request on, which may be 1 ms longer at
// most. Prints one line of JSON; the exit code is 1 if something of this does not hold.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({ options: {
  clients: { type: 'string', default: '200' }, sessions: { type: 'string', default: '400' },
  stickyd: { type: 'string', default: join(here, '../../target/release/stickyd') },
} });
const directory = mkdtempSync(join(tmpdir(), 'stickyd-fleet-'));
const children = [];
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

try {
  process.exitCode = (await main()) ? 0 : 1;
} finally {
  for (const child of children) child.kill('SIGKILL');
  rmSync(directory, { recursive: true, force: true });
}
process.exit();

async function main() {
  const workers = await Promise.all([1, 2, 3, 4].map((n) => worker(`w${n}`)));
  const redis = await startRedis();
  const fleet = await Promise.all([1, 2, 3].map((n) => stickyd(`edge-${n}`, workers, redis)));
  await until('the fleet uses its Redis', async () => {
    const texts = await Promise.all(fleet.map((one) => one.metrics()));
    return texts.every((text) => /stickyd_fleet_redis_up\{[^}]*\} 1/.test(text));
  });
  const clients = await runClients(fleet, Number(values.clients));
  const lookups = await sum(fleet, 'stickyd_fleet_lookups_total', 'result');
  const found = lookups.hit / (Object.values(lookups).reduce((all, count) => all + count, 0) || 1);

  const alone = await Promise.all([1, 2].map((n) => stickyd(`alone-${n}`, workers, null)));
  const [without, withRedis] = await firstRequests([alone, fleet], 1);
  const [meanwhile, stopped] = await firstRequests([alone, fleet], 6, () => redis.process.kill('SIGSTOP'));
  redis.process.kill('SIGCONT');

  const result = {
    clients, lookups, found: Number(found.toFixed(4)),
    first_request_ms: { without_fleet: without, with_redis: withRedis },
    from_the_sixth_ms: { without_fleet: meanwhile, redis_stopped: stopped },
  };
  const holds = clients.refusals === 0 && clients.lost === 0 && clients.connected === clients.n
    && found >= 0.99 && stopped.p99 <= meanwhile.p99 + 1;
  console.log(JSON.stringify({ ...result, holds }));
  return holds;
}

/** Starts a child whose stdin stays open, and ends it with this program. */
function start(program, args, options = {}) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore'], ...options });
  children.push(child);
  return child;
}

async function worker(name) {
  const child = start('node', ['server.js', '--name', name, '--allow-eio3'], { cwd: here });
  const [line] = await new Promise((done) => createInterface({ input: child.stdout }).once('line', (text) => done([text])));
  return { name, port: JSON.parse(line).port };
}

async function startRedis() {
  // Debian's redis-tools has the server under the name of a tool; the program decides by its name what it is.
  const places = (process.env.PATH ?? '').split(':');
  const program = ['redis-server', 'redis-check-rdb']
    .flatMap((name) => places.map((place) => join(place, name))).find((path) => existsSync(path));
  if (!program) throw new Error('redis-server is not installed');
  symlinkSync(program, join(directory, 'redis-server'));
  const port = await freePort();
  const options = ['--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'];
  const child = start(join(directory, 'redis-server'), options.map(String), { cwd: directory });
  return { process: child, url: `redis://127.0.0.1:${port}` };
}

function freePort() {
  const server = net.createServer();
  return new Promise((done) => server.listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => done(port));
  }));
}

/** Starts a stickyd; without a Redis it is in no fleet. */
async function stickyd(name, workers, redis) {
  const folder = join(directory, name);
  mkdirSync(folder);
  const port = await freePort();
  const list = workers.map((one) => `{ address = "127.0.0.1:${one.port}", name = "${one.name}" }`).join(', ');
  writeFileSync(join(folder, 'stickyd.toml'), `state_dir = "."
secret = "0123456789abcdef0123456789abcdef"
[[listener]]
address = "127.0.0.1:${port}"
[admin]
address = "unix:admin.sock"
[limits]
discoveries_per_address = 100000
pins_per_address = 1000000
[upstream.app]
workers = [${list}]
${redis ? `[fleet]\nredis = "${redis.url}"\nname = "${name}"\n` : ''}`);
  start(resolve(values.stickyd), ['run', '--config', 'stickyd.toml'], { cwd: folder });
  const admin = (path) => request({ socketPath: join(folder, 'admin.sock'), path }).then((answer) => answer.text);
  await until(`${name} serves`, async () => {
    const answer = await request({ port, path: '/socket.io/?EIO=4&transport=polling' }).catch(() => null);
    return answer?.status === 200;
  });
  return { port, metrics: () => admin('/metrics') };
}

async function until(what, holds) {
  for (let n = 0; n < 300; n++) {
    if (await holds()) return;
    await sleep(100);
  }
  throw new Error(`not within 30 s: ${what}`);
}

function request({ method = 'GET', body, ...options }) {
  return new Promise((done, failed) => {
    const sent = http.request({ host: '127.0.0.1', method, agent: false, ...options }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (part) => { text += part; });
      answer.on('end', () => done({ status: answer.statusCode, text }));
    });
    sent.on('error', failed);
    sent.end(body);
  });
}

/** Sums a series of all stickyds by the values of one label. */
async function sum(all, series, label) {
  const found = {};
  for (const one of all) {
    for (const line of (await one.metrics()).split('\n')) {
      const [, value, count] = line.match(new RegExp(`^${series}\\{${label}="(\\w+)"\\} (\\d+)`)) ?? [];
      if (value) found[value] = (found[value] ?? 0) + Number(count);
    }
  }
  return found;
}

/** Gives each new connection to the next stickyd, as a balancer of connections does. */
async function splitter(all) {
  let next = 0;
  const server = net.createServer((client) => {
    const target = net.connect(all[next++ % all.length].port, '127.0.0.1');
    client.pipe(target).pipe(client);
    for (const one of [client, target]) one.on('error', () => { client.destroy(); target.destroy(); });
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return server.address().port;
}

async function runClients(fleet, n) {
  const url = `http://127.0.0.1:${await splitter(fleet)}`;
  const kinds = [
    { transports: ['polling'] }, { transports: ['polling', 'websocket'] }, { transports: ['websocket'] },
    { transports: ['polling', 'websocket'], version: '2' },
  ];
  const each = Math.ceil(n / kinds.length);
  const results = await Promise.all(kinds.map((kind) => load({ urls: [url], n: each, ramp: 20, messages: 20, timeout: 120_000, ...kind })));
  const total = (of) => results.reduce((all, one) => all + of(one), 0);
  return {
    n: each * kinds.length, connected: total((one) => one.connected), refusals: total((one) => one.refusals.total),
    lost: total((one) => one.echoes.lost), reconnects: total((one) => one.reconnects),
  };
}

async function load(options) {
  const child = start('node', ['load.js', JSON.stringify(options)], { cwd: here });
  let last;
  for await (const line of createInterface({ input: child.stdout })) last = line;
  return JSON.parse(last);
}

/**
 * Times of the first request of sessions at a stickyd that does not know them, from the request with number `from` on.
 * The requests of all pairs take turns, so that a change of the machine's load meets all of them.
 */
async function firstRequests(pairs, from, before = () => {}) {
  const all = pairs.map(([one, other]) => ({ one, other, sids: [], times: [] }));
  for (const pair of all) {
    for (let n = 0; n < Number(values.sessions); n++) {
      const { text } = await request({ port: pair.one.port, path: '/socket.io/?EIO=4&transport=polling' });
      pair.sids.push(JSON.parse(text.slice(1)).sid);
    }
  }
  before();
  for (let n = 0; n < Number(values.sessions); n++) {
    for (const { other, sids, times } of all) {
      const began = performance.now();
      const path = `/socket.io/?EIO=4&transport=polling&sid=${sids[n]}`;
      const { status } = await request({ port: other.port, method: 'POST', path, body: '40' });
      if (status !== 200) throw new Error(`status ${status}`);
      times.push(performance.now() - began);
    }
  }
  return all.map(({ times }) => {
    const sorted = times.slice(from - 1).sort((a, b) => a - b);
    const at = (share) => Number(sorted[Math.floor(sorted.length * share)].toFixed(2));
    return { p50: at(0.5), p99: at(0.99) };
  });
}
