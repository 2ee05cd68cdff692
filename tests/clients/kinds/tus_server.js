// One tus worker: @tus/server, with its uploads in a folder that no other worker uses.
'use strict';
const fs = require('fs');
const os = require('os');
const path = require('path');
const { parseArgs } = require('util');
const { Server } = require('@tus/server');
const { FileStore } = require('@tus/file-store');
const { createWorker, announce } = require('../lib/worker');

const { values: opt } = parseArgs({
  options: {
    name: { type: 'string', default: `w${process.pid}` },
    port: { type: 'string', default: '0' },
    relative: { type: 'boolean' }, // Location: /files/ID, without a host
  },
});

const directory = fs.mkdtempSync(path.join(os.tmpdir(), `stickyd-tus-${opt.name}-`));
process.on('exit', () => fs.rmSync(directory, { recursive: true, force: true }));
const stats = { made: 0, finished: 0, refused: 0 };
const server = createWorker({ name: opt.name, stats, skip: (req) => req.url.startsWith('/files') });
const tus = new Server({ path: '/files', datastore: new FileStore({ directory }), relativeLocation: Boolean(opt.relative) });
tus.on('POST_CREATE', () => stats.made++);
tus.on('POST_FINISH', () => stats.finished++);
server.on('request', (req, res) => {
  if (!req.url.startsWith('/files')) return;
  res.setHeader('x-worker', opt.name);
  res.on('finish', () => res.statusCode === 404 && stats.refused++);
  tus.handle(req, res);
});
announce(server, { name: opt.name, port: opt.port });
