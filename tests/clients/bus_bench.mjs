// Figures of the bus, by hand, with a release build on a quiet machine: see README.md.
//
//   node tests/clients/bus_bench.mjs [--seconds 10] [--rooms 9000] [--stickyd target/release/stickyd]
//
// Four workers, each with one fake client that counts: (1) 20,000 emits of 200 bytes per second in all, received by each other worker;
// (2) the time from `emit` in one worker to its arrival in the others at 2,000/s; (3) the same with one worker stopped;
// (4) `fetchSockets` of a room of ROOMS sockets (fake ones, so that no connection is needed). Prints one line of JSON.
import { spawn, execFileSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({ options: {
  seconds: { type: 'string', default: '10' }, rooms: { type: 'string', default: '9000' },
  stickyd: { type: 'string', default: join(here, '../../target/release/stickyd') },
} });
const seconds = Number(values.seconds);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

if (process.send) worker();
else await main();

/** A worker: emits as it is told, and counts what reaches the fake client of its namespace. */
async function worker() {
  const { createServer } = await import('node:http');
  const { Server } = await import('socket.io');
  const io = new Server(createServer().listen(0));
  const got = { count: 0, delays: [] };
  const notifyOutgoingListeners = ({ data: [, at, from] }) => {
    if (from === process.pid) return;
    got.count += 1;
    if (got.count % 7 === 0) got.delays.push(Number(process.hrtime.bigint() - BigInt(at)) / 1e6);
  };
  io.of('/').sockets.set('fake', { id: 'fake', notifyOutgoingListeners, client: { writeToEngine() {} } });
  io.of('/').adapter.addAll('fake', new Set(['fake']));
  const filling = 'x'.repeat(200);
  const orders = {
    async emit({ rate, seconds }) {
      const began = performance.now();
      let sent = 0;
      while (performance.now() - began < seconds * 1000) {
        const due = Math.floor((performance.now() - began) / 1000 * rate);
        for (; sent < due; sent++) io.emit('x', String(process.hrtime.bigint()), process.pid, filling);
        await sleep(2);
      }
      return { sent, took_ms: performance.now() - began };
    },
    async fill({ count }) {
      const nsp = io.of('/');
      for (let n = 0; n < count; n++) {
        const id = `${process.pid}-${n}`;
        nsp.sockets.set(id, { id, rooms: new Set([id, 'room']), data: { n }, handshake: { headers: {}, address: '::1', url: '/' } });
        nsp.adapter.addAll(id, new Set([id, 'room']));
      }
      return {};
    },
    async fetch() {
      const began = performance.now();
      const sockets = await io.in('room').fetchSockets();
      return { sockets: sockets.length, took_ms: performance.now() - began };
    },
    async read() {
      const delays = got.delays.splice(0).sort((a, b) => a - b);
      const answer = { count: got.count, p50_ms: delays[delays.length >> 1], p99_ms: delays[Math.floor(delays.length * 0.99)] };
      got.count = 0;
      return answer;
    },
  };
  process.on('message', async ({ id, order, ...rest }) => process.send({ id, answer: await orders[order](rest) }));
  process.on('disconnect', () => process.exit(0));
  process.send({ id: 0 });
}

async function main() {
  const directory = mkdtempSync(join(tmpdir(), 'stickyd-bench-'));
  writeFileSync(join(directory, 'stickyd.toml'), `state_dir = "."
[[listener]]
address = "127.0.0.1:0"
[admin]
address = "unix:admin.sock"
[upstream.app]
workers = ["127.0.0.1:1"]
`);
  const stickyd = resolve(values.stickyd);
  const hub = spawn(stickyd, ['run', '--config', 'stickyd.toml'], { cwd: directory, stdio: 'ignore' });
  await sleep(1000);
  const line = execFileSync(stickyd, ['bus', 'env', '-c', 'stickyd.toml'], { cwd: directory, encoding: 'utf8' }).trim();
  const script = `export ${line}; exec node "$0"`;
  const workers = [];
  for (let n = 0; n < 4; n++) {
    const child = spawn('sh', ['-c', script, fileURLToPath(import.meta.url)], { cwd: here, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const waiting = new Map();
    child.on('message', ({ id, answer }) => waiting.get(id)?.(answer));
    const ready = new Promise((done) => waiting.set(0, done));
    let last = 0;
    const ask = (order, rest) => new Promise((done) => {
      waiting.set(++last, done);
      child.send({ id: last, order, ...rest });
    });
    workers.push({ child, ask });
    await ready;
  }
  await sleep(1000);
  const cpu = () => {
    const fields = execFileSync('cat', [`/proc/${hub.pid}/stat`], { encoding: 'utf8' }).split(') ')[1].split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  };
  const all = (order, rest, some = workers) => Promise.all(some.map((one) => one.ask(order, rest)));
  const round = async (rate, some) => {
    await all('read', {}, some);
    const before = cpu();
    const sent = await all('emit', { rate: rate / some.length, seconds }, some);
    await sleep(1000);
    const got = await all('read', {}, some);
    const total = sent.reduce((sum, one) => sum + one.sent, 0);
    const expected = sent.map((one) => total - one.sent);
    return {
      per_second: Math.round(total / Math.max(...sent.map((one) => one.took_ms)) * 1000),
      missing: expected.reduce((sum, count, n) => sum + count - got[n].count, 0),
      p50_ms: got.map((one) => one.p50_ms), p99_ms: got.map((one) => one.p99_ms), hub_cpu: (cpu() - before) / seconds,
    };
  };
  const result = { emits_20000: await round(20_000, workers), emits_2000: await round(2_000, workers) };
  workers[3].child.kill('SIGSTOP');
  result.emits_2000_one_stopped = await round(2_000, workers.slice(0, 3));
  workers[3].child.kill('SIGCONT');
  await sleep(2000);
  await all('fill', { count: Math.floor(Number(values.rooms) / 4) });
  result.fetch = await workers[0].ask('fetch', {});
  console.log(JSON.stringify(result, null, 1));
  for (const { child } of workers) child.kill('SIGKILL');
  hub.kill();
  process.exit(0);
}
