// A server as anybody would write it: express, its port from PORT. What else it does is asked for by the environment.
'use strict';
const fs = require('fs');
const express = require('express');
const { createServer } = require('http');
const { Server } = require('socket.io');

const env = process.env;
const app = express();
app.get('/who', (req, res) => {
  res.json({
    pid: process.pid, slot: env.STICKYD_INSTANCE, instance: env.NODE_APP_INSTANCE, port: env.PORT,
    options: env.NODE_OPTIONS, version: env.APP_VERSION, heap: require('v8').getHeapStatistics().heap_size_limit,
  });
});
app.get('/health', (req, res) => res.send('ok'));
app.get('/exit', () => process.exit(3));

if (env.STUBBORN) process.on('SIGTERM', () => console.log('SIGTERM is ignored'));
// A child of its own, which no signal but SIGKILL ends.
if (env.CHILD) {
  const child = require('child_process').spawn(process.execPath, [
    '-e', "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)",
  ], { stdio: 'ignore' });
  fs.appendFileSync(env.CHILD, `${child.pid}\n`);
}
if (env.LOUD) {
  const lines = Buffer.from(('x'.repeat(99) + '\n').repeat(1000));
  const loud = () => {
    for (let i = 0; i < 10; i++) process.stdout.write(lines);
    setTimeout(loud, 10);
  };
  loud();
}
// What a broken deployment does: the next process that starts does not come up.
if (env.BROKEN && fs.existsSync(env.BROKEN)) {
  console.error('cannot find module ./nowhere');
  process.exit(1);
}
const server = createServer(app);
const io = new Server(server, { cors: { origin: '*' }, allowEIO3: true });
io.on('connection', (socket) => {
  socket.on('echo', (n, answer) => answer?.({ n, worker: env.STICKYD_INSTANCE }));
  socket.on('note', (text) => {
    console.log(`noted: ${text}`);
    socket.emit('noted', text);
  });
  socket.on('disconnect', (why) => console.log(`gone: ${why}`));
});
server.listen(env.LISTEN || env.PORT, () => console.log(`worker ${env.STICKYD_INSTANCE} listens`));
