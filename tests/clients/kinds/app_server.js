// One worker of an application that speaks three protocols on one port: Socket.IO, SockJS at /echo, tus at /files.
'use strict';
const fs = require('fs');
const os = require('os');
const path = require('path');
const { parseArgs } = require('util');
const sockjs = require('sockjs');
const socketio = require('socket.io');
const { Server } = require('@tus/server');
const { FileStore } = require('@tus/file-store');
const { createWorker, announce } = require('../lib/worker');

const { values: opt } = parseArgs({
  options: { name: { type: 'string', default: `w${process.pid}` }, port: { type: 'string', default: '0' } },
});

const directory = fs.mkdtempSync(path.join(os.tmpdir(), `stickyd-app-${opt.name}-`));
process.on('exit', () => fs.rmSync(directory, { recursive: true, force: true }));
const stats = { refused: 0 };
const server = createWorker({ name: opt.name, stats, skip: (req) => /^\/(echo|files|socket\.io)\b/.test(req.url) });

const tus = new Server({ path: '/files', datastore: new FileStore({ directory }), relativeLocation: true });
server.on('request', (req, res) => {
  if (!req.url.startsWith('/files')) return;
  res.setHeader('x-worker', opt.name);
  tus.handle(req, res);
});
const echo = sockjs.createServer({ prefix: '/echo', heartbeat_delay: 300, disconnect_delay: 20000, log: () => {} });
echo.on('connection', (session) => session?.on('data', (text) => session.write(JSON.stringify({ worker: opt.name, text }))));
echo.installHandlers(server);
const io = new socketio.Server(server);
io.on('connection', (socket) => socket.on('n', (i) => socket.emit('n', i, opt.name)));

announce(server, { name: opt.name, port: opt.port });
