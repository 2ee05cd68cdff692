// Starts an application in several processes, each with its own PORT: PORT, PORT+1, … (see node-cluster.toml).
//
//     PORT=3001 WORKERS=4 node cluster.cjs ./app.js
//
// The application only has to call listen(process.env.PORT). A process that dies is started again on the same port:
// ports belong to slots, because cluster's worker.id grows with every start.
const cluster = require('node:cluster');
const os = require('node:os');
const path = require('node:path');

const [app] = process.argv.slice(2);
const base = Number(process.env.PORT || 3001);
const count = Number(process.env.WORKERS || os.availableParallelism());
if (!app || !Number.isInteger(base) || !Number.isInteger(count)) {
  console.error('usage: PORT=3001 WORKERS=4 node cluster.cjs ./app.js');
  process.exit(2);
}

let stopping = false;

function start(slot) {
  const worker = cluster.fork({ PORT: String(base + slot) });
  worker.on('exit', (code, signal) => {
    if (stopping) return;
    console.error(`port ${base + slot}: ended (${signal || code}), starting again in a second`);
    setTimeout(() => stopping || start(slot), 1000); // a process that cannot start must not spin
  });
}

function stop(signal) {
  stopping = true;
  for (const worker of Object.values(cluster.workers)) worker.process.kill(signal);
}

// `advanced`: a Buffer that a Socket.IO adapter sends to another process stays a Buffer (docs/messages.md).
cluster.setupPrimary({ exec: path.resolve(app), args: process.argv.slice(3), serialization: 'advanced' });
for (let slot = 0; slot < count; slot += 1) start(slot);
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => stop(signal));
