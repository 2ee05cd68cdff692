// Kills workers and stickyd at random while clients count acknowledged messages: by hand, see README.md.
//
//   node tests/clients/bus_soak.mjs [--minutes 10] [--workers 4] [--clients 40] [--stickyd target/debug/stickyd]
//
// Each worker emits one message after the other; a message counts once its worker has acknowledged it. Each client must
// get every message that was acknowledged while it was connected, exactly once. Clients connect to the workers directly,
// half by polling, so that stickyd's death cuts none of them. Two deaths are at least two seconds apart after stickyd is
// back: what a worker said while stickyd was dead is only in that worker's memory, and dies with it.
import { spawn, execFileSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { io } from 'socket.io-client';

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({ options: {
  minutes: { type: 'string', default: '10' }, workers: { type: 'string', default: '4' },
  clients: { type: 'string', default: '40' }, stickyd: { type: 'string', default: join(here, '../../target/debug/stickyd') },
} });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const between = (low, high) => low + Math.random() * (high - low);
const stickydPath = resolve(values.stickyd);
const directory = mkdtempSync(join(tmpdir(), 'stickyd-soak-'));

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

const ports = [];
for (let n = 0; n < Number(values.workers); n++) ports.push(await freePort());
writeFileSync(join(directory, 'stickyd.toml'), `state_dir = "."
[[listener]]
address = "127.0.0.1:${await freePort()}"
[admin]
address = "unix:admin.sock"
[upstream.app]
workers = [${ports.map((port) => `"127.0.0.1:${port}"`)}]
`);
const inside = { cwd: directory, stdio: ['pipe', 'ignore', 'ignore'] };
const startHub = () => spawn(stickydPath, ['run', '--config', 'stickyd.toml'], inside);
let hub = startHub();
await sleep(1000);
const environment = { ...process.env };
// Shell words, with quotes that the shell removes.
const line = execFileSync(stickydPath, ['bus', 'env', '-c', 'stickyd.toml'], { cwd: directory, encoding: 'utf8' });
const set = execFileSync('sh', ['-c', `export ${line.trim()}; printf '%s\\n' "$NODE_OPTIONS" "$STICKYD_BUS" "$STICKYD_BUS_UPSTREAM"`]);
[environment.NODE_OPTIONS, environment.STICKYD_BUS, environment.STICKYD_BUS_UPSTREAM] = String(set).trim().split('\n');

const totals = { emitted: 0, unanswered: 0, kills: 0, hubKills: 0, rejections: 0, connects: 0 };
const workers = ports.map((port) => ({ port, process: null, said: 0 }));

async function startWorker(worker) {
  const child = spawn('node', [join(here, 'bus_worker.cjs')], {
    env: { ...environment, PORT: String(worker.port) }, stdio: ['pipe', 'pipe', 'pipe'],
  });
  child.stderr.on('data', (text) => { if (String(text).includes('rejected')) totals.rejections += 1; });
  await new Promise((done) => child.stdout.once('data', done));
  worker.process = child;
}
await Promise.all(workers.map(startWorker));
await sleep(1500);

function endAll() {
  hub.kill();
  for (const { process: child } of workers) child?.kill();
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => (endAll(), process.exit(1)));

// Texts of acknowledged messages, with the times of their beginning and of their acknowledgement.
const messages = [];
let ending = false;
async function emitter(index) {
  const worker = workers[index];
  while (!ending) {
    const text = `${index}-${worker.said++}`, began = Date.now();
    try {
      const answer = await fetch(`http://127.0.0.1:${worker.port}/emit?text=${text}`, { signal: AbortSignal.timeout(5000) });
      await answer.text();
      messages.push({ text, began, acked: Date.now() });
      totals.emitted += 1;
    } catch {
      totals.unanswered += 1;
      await sleep(50);
    }
    await sleep(20);
  }
}

const clients = Array.from({ length: Number(values.clients) }, (_, n) => {
  const client = { got: new Map(), spans: [] };
  const socket = io(`http://127.0.0.1:${ports[n % ports.length]}`, {
    transports: n % 2 ? ['websocket'] : ['polling'], forceNew: true, reconnectionDelay: 100, reconnectionDelayMax: 500,
  });
  socket.on('connect', () => { totals.connects += 1; client.spans.push({ from: Date.now(), to: Infinity }); });
  socket.on('disconnect', () => { client.spans.at(-1).to = Date.now(); });
  socket.on('news', (text) => client.got.set(text, (client.got.get(text) ?? 0) + 1));
  return Object.assign(client, { socket });
});
while (!clients.every(({ socket }) => socket.connected)) await sleep(50);
const emitters = workers.map((_, index) => emitter(index));

const end = Date.now() + Number(values.minutes) * 60_000;
while (Date.now() < end) {
  await sleep(between(500, 3000));
  if (Math.random() < 0.3) {
    totals.hubKills += 1;
    hub.kill('SIGKILL');
    await sleep(between(0, 2000));
    hub = startHub();
    await sleep(2000);
  } else {
    totals.kills += 1;
    const worker = workers[Math.floor(Math.random() * workers.length)];
    worker.process.kill('SIGKILL');
    await sleep(between(0, 500));
    await startWorker(worker);
    await sleep(2000);
  }
}
ending = true;
await Promise.all(emitters);
await sleep(3000);

// A client counts for a message if it was connected from a second before it until three seconds after it.
let expected = 0, missed = 0, duplicates = 0;
const examples = [];
messages.sort((one, other) => one.began - other.began);
for (const client of clients) {
  let at = -1; // the last span that began a second before the message
  for (const { text, began, acked } of messages) {
    while (client.spans[at + 1]?.from < began - 1000) at += 1;
    const whole = at >= 0 && client.spans[at].to > acked + 3000;
    const count = client.got.get(text) ?? 0;
    if (count > 1) duplicates += 1;
    if (!whole) continue;
    expected += 1;
    if (count === 0) { missed += 1; if (examples.length < 10) examples.push(text); }
  }
}
console.log(JSON.stringify({ ...totals, expected, missed, duplicates, examples }, null, 1));
endAll();
process.exit(missed || duplicates || totals.rejections ? 1 : 0);
