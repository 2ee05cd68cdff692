// The bus at scale, by hand: see README.md.
//
//   node tests/clients/bus_scale.mjs [--workers 16] [--clients 2000] [--stickyd target/debug/stickyd]
//
// Each worker emits to all and to a room, and lists all sockets. Half of the clients poll. Each client must get each
// message exactly once, and nothing that is not for it. Prints one line of JSON.
import { spawn } from 'node:child_process';
import { get } from 'node:http';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { io } from 'socket.io-client';
import { Stickyd, clientsFolder, sleep, until } from './lib/soak.mjs';

if (process.send) await someClients();
const { values } = parseArgs({ options: {
  workers: { type: 'string', default: '16' }, clients: { type: 'string', default: '2000' },
  stickyd: { type: 'string', default: join(clientsFolder, '../../target/debug/stickyd') },
} });
const [workers, count] = [Number(values.workers), Number(values.clients)];

/** A part of the clients, in a process of its own: it connects them, and counts when it is asked. */
async function someClients() {
  const got = new Map();
  let clients = [];
  process.on('disconnect', () => process.exit(0));
  process.on('message', async ({ url, count, texts }) => {
    if (url) {
      clients = Array.from({ length: count }, (_, n) => {
        const socket = io(url, { transports: n % 2 ? ['websocket'] : ['polling'], forceNew: true, timeout: 60000 });
        socket.on('news', (text) => got.set(`${n} ${text}`, (got.get(`${n} ${text}`) ?? 0) + 1));
        return socket;
      });
      await until('all are connected', () => clients.every(({ connected }) => connected), 300);
      const places = [];
      for (const [n, socket] of clients.entries()) places.push(await socket.emitWithAck('join', n % 4 ? 'blue' : 'red'));
      process.send({ workers: [...new Set(places)], red: Math.ceil(count / 4) });
    } else {
      // `all` is for everybody, `red` for every fourth client.
      let missed = 0, doubled = 0, wrong = 0;
      for (let n = 0; n < clients.length; n++) {
        for (const [text, room] of texts) {
          const times = got.get(`${n} ${text}`) ?? 0, wanted = !room || n % 4 === 0;
          if (times > 1) doubled += 1;
          else if (wanted && !times) missed += 1;
          else if (!wanted && times) wrong += 1;
        }
      }
      process.send({ missed, doubled, wrong });
    }
  });
  await new Promise(() => {});
}

const ask = (port, path) => new Promise((done, failed) => {
  get({ host: '127.0.0.1', port, path }, (answer) => {
    let text = '';
    answer.on('data', (data) => (text += data)).on('end', () => done(JSON.parse(text)));
  }).on('error', failed);
});

// Under PM2, and so here, the application does not end with its stdin.
const keys = `command = ["node", "bus_worker.cjs"], env = { PM2_HOME = "none" }, instances = ${workers}`;
const stickyd = await Stickyd.start({ binary: values.stickyd, keys });
let failed = false;
const runs = Array.from({ length: 4 }, () => spawn('node', [join(clientsFolder, 'bus_scale.mjs')], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }));
try {
  const ports = (await stickyd.ready(workers)).map(({ address }) => Number(address.split(':').at(-1)));
  await until('all workers are linked', async () => (await stickyd.metric('stickyd_bus_workers{')) === workers);
  const answer = (run) => new Promise((done) => run.once('message', done));
  const began = Date.now();
  const connected = await Promise.all(runs.map((run) => {
    run.send({ url: stickyd.url, count: count / 4 });
    return answer(run);
  }));
  const connectSeconds = (Date.now() - began) / 1000;
  const busy = new Set(connected.flatMap((one) => one.workers)).size;
  const texts = [];
  for (const [n, port] of ports.entries()) {
    await ask(port, `/emit?text=all${n}`);
    await ask(port, `/emit?text=red${n}&room=red`);
    texts.push([`all${n}`, false], [`red${n}`, true]);
  }
  let told;
  for (let wait = 0; wait < 60; wait++) {
    await sleep(1000);
    told = await Promise.all(runs.map((run) => (run.send({ texts }), answer(run))));
    if (told.every(({ missed }) => !missed)) break;
  }
  const sum = (field) => told.reduce((total, one) => total + one[field], 0);
  const lists = [], rooms = [];
  let slowest = 0;
  for (const port of ports) {
    const asked = Date.now();
    lists.push((await ask(port, '/fetch')).length);
    slowest = Math.max(slowest, Date.now() - asked);
    rooms.push((await ask(port, '/ids?room=red')).length);
  }
  const red = connected.reduce((total, one) => total + one.red, 0);
  const wrongLists = lists.filter((length) => length !== count).length + rooms.filter((length) => length !== red).length;
  const result = {
    workers, clients: count, busyWorkers: busy, connectSeconds, messages: texts.length,
    missed: sum('missed'), doubled: sum('doubled'), wrong: sum('wrong'), wrongLists, slowestFetchMs: slowest,
    slow: await stickyd.metric('stickyd_bus_slow_total'), dropped: await stickyd.metric('stickyd_bus_dropped_total'),
    ...stickyd.held(),
  };
  console.log(JSON.stringify(result));
  failed = Boolean(result.missed || result.doubled || result.wrong || wrongLists || busy !== workers);
} catch (error) {
  [failed] = [true, console.error(error)];
}
runs.forEach((run) => run.kill('SIGKILL'));
const left = await stickyd.stop();
if (failed || left) console.error(`${left} processes are left; log: ${stickyd.folder}/stickyd.log`);
else stickyd.remove();
process.exit(failed || left ? 1 : 0);
