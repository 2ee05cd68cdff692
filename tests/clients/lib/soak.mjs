// For the scripts that run by hand: a stickyd that starts workers, real clients, and what processes hold.
import { spawn, execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const clientsFolder = join(dirname(fileURLToPath(import.meta.url)), '..');
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
export const between = (low, high) => low + Math.random() * (high - low);

/** Waits until `condition` gives something true; throws after `seconds`. */
export async function until(what, condition, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`);
    await sleep(50);
  }
}

export async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** A stickyd of its own, in a folder of its own. All its processes carry a mark in their environment. */
export class Stickyd {
  /** `keys` are those of `spawn`; `more` is added to the configuration. */
  static async start({ binary, keys, more = '' }) {
    const port = await freePort();
    const stickyd = new Stickyd();
    stickyd.binary = resolve(binary);
    stickyd.folder = mkdtempSync(join(tmpdir(), 'stickyd-soak-'));
    stickyd.url = `http://127.0.0.1:${port}`;
    stickyd.mark = `STICKYD_SOAK=${process.pid}-${port}`;
    writeFileSync(join(stickyd.folder, 'stickyd.toml'), `state_dir = "."
[[listener]]
address = "127.0.0.1:${port}"
[admin]
address = "unix:admin.sock"
[upstream.app]
health = { kind = "http", path = "/health", interval = "400ms" }
${more}
spawn = { directory = "${clientsFolder}", ${keys} }
`);
    stickyd.run();
    return stickyd;
  }

  run() {
    const [name, value] = this.mark.split('=');
    const log = openSync(join(this.folder, 'stickyd.log'), 'a');
    this.process = spawn(this.binary, ['run', '--config', 'stickyd.toml'], {
      cwd: this.folder, stdio: ['ignore', log, log], env: { ...process.env, [name]: value },
    });
    this.ended = new Promise((done) => this.process.on('exit', done));
  }

  get pid() {
    return this.process.pid;
  }

  /** Runs a command; returns its exit code and what it said. */
  command(...words) {
    return new Promise((done) => {
      const child = spawn(this.binary, [...words, '--config', 'stickyd.toml'], { cwd: this.folder });
      let said = '';
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data));
      child.on('exit', (code) => done({ code, said }));
    });
  }

  /** The answer of the admin listener; null if there is none. */
  admin(path) {
    return new Promise((done) => {
      const asked = request({ socketPath: join(this.folder, 'admin.sock'), path }, (answer) => {
        let text = '';
        answer.on('data', (data) => (text += data)).on('end', () => done(text));
      });
      asked.on('error', () => done(null)).end();
    });
  }

  async workers() {
    const said = await this.admin('/api/v1/spawn');
    return said ? JSON.parse(said).upstreams[0].workers : [];
  }

  /** Waits until this many workers are ready, and no other is left. */
  ready(count) {
    return until(`${count} workers are ready`, async () => {
      const workers = await this.workers();
      const good = workers.filter(({ state, leaving }) => state === 'ready' && !leaving.length);
      return good.length === count && workers.length === count && workers;
    });
  }

  /** The sum of a series whose line begins so; null if stickyd does not answer. */
  async metric(begin) {
    const text = await this.admin('/metrics');
    const lines = text?.split('\n').filter((line) => line.startsWith(begin));
    return lines && lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /** All processes that this stickyd has started, also those that left their group, and stickyd itself. */
  processes() {
    return readdirSync('/proc').filter((pid) => {
      try {
        if (!readFileSync(`/proc/${pid}/environ`).includes(this.mark)) return false;
        return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
      } catch {
        return false;
      }
    }).map(Number);
  }

  /** The spawner: the child of stickyd that is not a worker. */
  spawner() {
    const pid = execFileSync('ps', ['-o', 'pid=', '--ppid', String(this.pid)], { encoding: 'utf8' }).trim().split(/\s+/)[0];
    return Number(pid) || null;
  }

  /** Open descriptors and resident memory of stickyd. */
  held() {
    const descriptors = readdirSync(`/proc/${this.pid}/fd`).length;
    const pages = Number(readFileSync(`/proc/${this.pid}/statm`, 'utf8').split(' ')[1]);
    return { descriptors, megabytes: Math.round(pages * 4096 / 1e5) / 10 };
  }

  /** Stops everything; returns how many processes are left after five seconds. */
  async stop() {
    this.process.kill('SIGTERM');
    for (let n = 0; n < 100 && this.processes().length; n++) await sleep(50);
    const left = this.processes();
    for (const pid of left) quietly(() => process.kill(pid, 'SIGKILL'));
    return left.length;
  }

  remove() {
    rmSync(this.folder, { recursive: true, force: true });
  }

  log() {
    return readFileSync(join(this.folder, 'stickyd.log'), 'utf8');
  }
}

export function quietly(work) {
  try {
    return work();
  } catch {
    return null;
  }
}

/** Real clients in processes of their own (`load.js`): polling, upgrading and WebSocket, a third each. */
export class RealClients {
  constructor(url, count, interval = 500) {
    const kinds = [['polling'], undefined, ['websocket']];
    const share = (n) => Math.floor(count / 3) + (n < count % 3 ? 1 : 0);
    this.count = count;
    this.cuts = new Map(); // client → number of disconnects since `begin`
    this.runs = kinds.map((transports, kind) => {
      const options = { urls: [url], n: share(kind), messages: 'endless', interval, keep: true, events: true, timeout: 2 ** 31 - 1 };
      const child = spawn('node', [join(clientsFolder, 'load.js'), JSON.stringify({ ...options, transports })], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      const run = { child, live: new Set(), waiting: [] };
      createInterface({ input: child.stdout }).on('line', (line) => this.heard(run, kind, JSON.parse(line)));
      return run;
    });
  }

  heard(run, kind, line) {
    if (line.event === 'connect') run.live.add(line.client);
    if (line.event === 'disconnect') {
      run.live.delete(line.client);
      const client = `${kind}-${line.client}`;
      this.cuts.set(client, (this.cuts.get(client) ?? 0) + 1);
    }
    if (line.event === 'status' || line.event === 'result') run.waiting.shift()?.(line);
  }

  /** Number of clients that are connected. */
  get connected() {
    return this.runs.reduce((sum, { live }) => sum + live.size, 0);
  }

  allConnected(seconds = 60) {
    return until('all clients are connected', () => this.connected === this.count, seconds);
  }

  /** From now on `cuts` counts anew. */
  begin() {
    this.cuts.clear();
  }

  /** Sums of what all clients have seen. */
  async seen(command = 'status') {
    const all = await Promise.all(this.runs.map((run) => new Promise((done) => {
      run.waiting.push(done);
      run.child.stdin.write(`${command}\n`);
    })));
    const sum = (read) => all.reduce((total, one) => total + read(one), 0);
    const merged = (field) => all.reduce((total, one) => {
      for (const [key, count] of Object.entries(one[field])) total[key] = (total[key] ?? 0) + count;
      return total;
    }, {});
    return {
      refusals: sum((one) => one.refusals.total), reconnects: sum((one) => one.reconnects),
      moved: sum((one) => one.moved), duplicated: sum((one) => one.echoes.duplicated),
      connectErrors: merged('connect_errors'), disconnects: merged('disconnects'), badAnswers: merged('bad_answers'),
    };
  }

  kill() {
    for (const { child } of this.runs) child.kill('SIGKILL');
  }
}
