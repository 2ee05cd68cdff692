// Rolls under real clients, by hand: see README.md.
//
//   node tests/clients/spawn_rolls.mjs [--rolls 3] [--clients 200] [--workers 4] [--grace 10s] [--stickyd target/debug/stickyd]
//
// Prints one line of JSON per roll. Fails if a client was cut more than once in a roll, was refused ("Session ID
// unknown", a failed connect), or if a worker has more than 1.2 times the mean of the sessions, and one.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { RealClients, Stickyd, clientsFolder } from './lib/soak.mjs';

const { values } = parseArgs({ options: {
  rolls: { type: 'string', default: '3' }, clients: { type: 'string', default: '200' },
  workers: { type: 'string', default: '4' }, grace: { type: 'string', default: '10s' },
  stickyd: { type: 'string', default: join(clientsFolder, '../../target/debug/stickyd') },
} });
const [rolls, count, workers] = [values.rolls, values.clients, values.workers].map(Number);
const keys = `command = ["node", "server.js", "--daemon"], instances = ${workers}, grace = "${values.grace}"`;
const stickyd = await Stickyd.start({ binary: values.stickyd, keys });
const clients = new RealClients(stickyd.url, count);
process.on('exit', () => clients.kill());

let failed = false;
try {
  await stickyd.ready(workers);
  await clients.allConnected();
  let before = await clients.seen();
  for (let roll = 1; roll <= rolls; roll++) {
    clients.begin();
    const began = Date.now();
    const { code, said } = await stickyd.command('workers', 'restart');
    await clients.allConnected();
    await stickyd.ready(workers);
    const after = await clients.seen();
    const sessions = [];
    for (let n = 1; n <= workers; n++) sessions.push(await stickyd.metric(`stickyd_sessions{upstream="app",worker="${n}"}`));
    const errors = (seen) => Object.values(seen.connectErrors).reduce((sum, count) => sum + count, 0);
    const result = {
      roll, seconds: (Date.now() - began) / 1000, exitCode: code,
      cutOnce: [...clients.cuts.values()].filter((count) => count === 1).length,
      cutMore: [...clients.cuts.values()].filter((count) => count > 1).length,
      refusals: after.refusals - before.refusals, connectErrors: errors(after) - errors(before),
      sessions, worstToMean: Math.max(...sessions) / (sessions.reduce((sum, one) => sum + one, 0) / workers),
    };
    console.log(JSON.stringify(result));
    const isBad = code !== 0 || result.cutMore || result.refusals || result.connectErrors || Math.max(...sessions) > 1.2 * count / workers + 1;
    if (isBad) [failed] = [true, console.error(said, JSON.stringify(after))];
    before = after;
  }
} catch (error) {
  [failed] = [true, console.error(error)];
}
clients.kill();
const left = await stickyd.stop();
if (left) console.error(`${left} processes are left`);
if (failed || left) console.error(`log: ${stickyd.folder}/stickyd.log`);
else stickyd.remove();
process.exit(failed || left ? 1 : 0);
