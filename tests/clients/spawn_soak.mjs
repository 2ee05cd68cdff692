// Deaths and rolls at random under real clients, by hand: see README.md.
//
//   node tests/clients/spawn_soak.mjs [--minutes 10] [--clients 200] [--workers 4] [--kill worker,spawner,stickyd]
//                                     [--stickyd target/debug/stickyd]
//
// Each minute all workers are replaced; between, one of the named processes is killed (SIGKILL) every few seconds.
// Prints a line per event and a sum at the end. What may be lost: at the death of a worker, exactly the sessions that it
// held; at the death of the spawner or of stickyd, all. A roll costs each client at most one connection, and nothing is
// refused in it. At the end all clients are connected, no process, descriptor or memory has leaked, and after SIGTERM
// nothing is left.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { RealClients, Stickyd, between, clientsFolder, quietly, sleep, until } from './lib/soak.mjs';

const { values } = parseArgs({ options: {
  minutes: { type: 'string', default: '10' }, clients: { type: 'string', default: '200' },
  workers: { type: 'string', default: '4' }, kill: { type: 'string', default: 'worker' },
  grace: { type: 'string', default: '5s' },
  stickyd: { type: 'string', default: join(clientsFolder, '../../target/debug/stickyd') },
} });
const [count, workers] = [values.clients, values.workers].map(Number);
const victims = values.kill.split(',');
const keys = `command = ["node", "server.js", "--daemon"], instances = ${workers}, grace = "${values.grace}"`;
const stickyd = await Stickyd.start({ binary: values.stickyd, keys });
const clients = new RealClients(stickyd.url, count);
process.on('exit', () => clients.kill());

const totals = { rolls: 0, failedRolls: 0, kills: {}, cutMore: 0, lostTooMany: 0, refusalsInRolls: 0, errorsInRolls: 0, slowest: 0 };
const problems = [];
const cut = () => [...clients.cuts.values()].reduce((sum, count) => sum + count, 0);
const errors = (seen) => Object.values(seen.connectErrors).reduce((sum, count) => sum + count, 0);
const say = (event, about) => console.log(JSON.stringify({ at: new Date().toISOString().slice(11, 19), event, ...about }));

/** Sessions of each worker, by its number. */
async function sessions() {
  const all = {};
  for (let n = 1; n <= workers; n++) all[n] = await stickyd.metric(`stickyd_sessions{upstream="app",worker="${n}"}`);
  return all;
}

async function settled() {
  await clients.allConnected();
  await stickyd.ready(workers);
}

async function roll() {
  const before = await clients.seen();
  clients.begin();
  const { code, said } = await stickyd.command('workers', 'restart');
  await settled();
  const after = await clients.seen();
  const more = [...clients.cuts.values()].filter((count) => count > 1).length;
  totals.rolls += 1;
  totals.cutMore += more;
  totals.refusalsInRolls += after.refusals - before.refusals;
  totals.errorsInRolls += errors(after) - errors(before);
  if (code !== 0) [totals.failedRolls] = [totals.failedRolls + 1, problems.push(said)];
  say('roll', { code, cut: cut(), more, refusals: after.refusals - before.refusals, ...stickyd.held() });
}

async function death(victim) {
  const held = await sessions();
  const all = await stickyd.workers();
  const one = all[Math.floor(Math.random() * all.length)];
  clients.begin();
  const began = Date.now();
  if (victim === 'stickyd') {
    stickyd.process.kill('SIGKILL');
    await stickyd.ended;
    await sleep(1000); // none of its processes is left by then
    const left = stickyd.processes();
    if (left.length) problems.push(`${left.length} processes survived stickyd`);
    stickyd.run();
  } else {
    quietly(() => process.kill(victim === 'spawner' ? stickyd.spawner() : one.pid, 'SIGKILL'));
  }
  if (victim !== 'stickyd') await until('the death is seen', async () => (await stickyd.metric('stickyd_worker_restarts_total')) > 0);
  await sleep(200);
  await settled();
  const may = victim === 'worker' ? held[one.worker] : count;
  // A client that connected or left between the count and the death.
  const tooMany = Math.max(0, cut() - may - 2);
  totals.lostTooMany += tooMany;
  totals.kills[victim] = (totals.kills[victim] ?? 0) + 1;
  totals.slowest = Math.max(totals.slowest, Date.now() - began);
  say(`death of ${victim}`, { held: may, cut: cut(), ms: Date.now() - began });
}

let first = null;
try {
  await settled();
  await roll(); // the first one fills caches
  first = stickyd.held();
  const end = Date.now() + Number(values.minutes) * 60_000;
  let nextRoll = Date.now() + 60_000;
  while (Date.now() < end) {
    if (Date.now() >= nextRoll) {
      await roll();
      nextRoll += 60_000;
    }
    await sleep(between(500, 6000));
    // The spawner and stickyd cost everybody's connection, so they die less often.
    const victim = Math.random() < 0.7 && victims.includes('worker') ? 'worker' : victims[Math.floor(Math.random() * victims.length)];
    await death(victim);
    if (victim === 'stickyd') first = null;
    first ??= stickyd.held();
  }
  await roll();
  await sleep(6000); // idle connections to workers have ended
} catch (error) {
  problems.push(error.stack);
}
const last = quietly(() => stickyd.held()), seen = await clients.seen('stop');
// stickyd, the spawner and the workers.
const leaked = stickyd.processes().length - (2 + workers);
clients.kill();
const left = await stickyd.stop();
const result = { ...totals, ...seen, connected: clients.connected, first, last, leaked, leftAfterStop: left, problems };
console.log(JSON.stringify(result, null, 1));
const grows = !first || !last || last.descriptors > first.descriptors + 60 || last.megabytes > first.megabytes + 20;
const isBad = problems.length || leaked || left || grows || totals.cutMore || totals.lostTooMany || totals.refusalsInRolls
  || totals.errorsInRolls || seen.moved || seen.duplicated;
if (isBad) console.error(`log: ${stickyd.folder}/stickyd.log`);
else stickyd.remove();
process.exit(isBad ? 1 : 0);
