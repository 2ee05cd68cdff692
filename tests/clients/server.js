// One worker process of a Socket.IO application: an unmodified server with the in-memory adapter, as a user would run
// it. It only counts (lib/count.js); nothing in it helps a proxy. Options: see README.md.
'use strict';
const { randomUUID } = require('crypto');
const { parseArgs } = require('util');
const { createWorker, announce } = require('./lib/worker');
const { countEngine, spoilHandshake } = require('./lib/count');

const { values: opt } = parseArgs({
  options: {
    version: { type: 'string', default: '4' }, // 4 | 4.5 | 3 | 2 | 1.7
    port: { type: 'string', default: process.env.PORT || '0' },
    daemon: { type: 'boolean' }, // lives on without stdin: under PM2 or systemd
    name: { type: 'string', default: `w${process.pid}` },
    path: { type: 'string', default: '/socket.io/' },
    'no-trailing-slash': { type: 'boolean' }, // 4.6+: the path as it is
    cors: { type: 'string' }, // origin[,credentials]
    'generate-id': { type: 'string' }, // custom | long | unicode
    'ping-interval': { type: 'string' },
    'ping-timeout': { type: 'string' },
    'compress-handshake': { type: 'boolean' },
    cookie: { type: 'boolean' }, // v3+: off by default
    'no-cookie': { type: 'boolean' }, // v1, v2: on by default
    'allow-eio3': { type: 'boolean' },
    'permessage-deflate': { type: 'boolean' },
    tls: { type: 'string' }, // cert.pem,key.pem: to test the clients' TLS without a proxy
    recovery: { type: 'boolean' }, // connection state recovery
    handshake: { type: 'string' }, // bytes | late: how its answer to a handshake leaves
  },
});

const PACKAGES = { 4: 'socket.io', 4.5: 'socket.io-4.5', 3: 'socket.io-3', 2: 'socket.io-2', 1.7: 'socket.io-1.7' };
const modern = Number(opt.version) >= 3;

function ioOptions() {
  const o = { path: opt.path };
  if (opt['no-trailing-slash']) o.addTrailingSlash = false;
  if (opt['ping-interval']) o.pingInterval = Number(opt['ping-interval']);
  if (opt['ping-timeout']) o.pingTimeout = Number(opt['ping-timeout']);
  if (opt['compress-handshake']) o.httpCompression = { threshold: 1 };
  if (opt['permessage-deflate']) o.perMessageDeflate = { threshold: 1 };
  if (opt.cookie) o.cookie = modern ? true : 'io';
  if (opt['no-cookie']) o.cookie = false;
  if (opt['allow-eio3']) o.allowEIO3 = true;
  if (opt.recovery) o.connectionStateRecovery = {};
  if (opt.cors) {
    const [origin, credentials] = opt.cors.split(',');
    if (modern) o.cors = { origin, credentials: credentials === 'credentials' };
    else o.origins = origin === '*' ? '*:*' : `${origin}${/:\d+$/.test(origin) ? '' : ':*'}`;
  }
  return o;
}

const ID_MAKERS = {
  custom: () => randomUUID(),
  long: () => (randomUUID() + 'x'.repeat(256)).slice(0, 256),
  unicode: () => `room/α b+c&d=${randomUUID()}`, // the characters that queries, JSON and UTF-8 disagree about
};

const stats = {};
const server = createWorker({ name: opt.name, stats, tls: opt.tls, skip: (req) => req.url.startsWith(opt.path), more: { '/socket': follow } });
const library = require(PACKAGES[opt.version]);
const io = modern ? new library.Server(server, ioOptions()) : library(server, ioOptions());
if (opt['generate-id']) io.engine.generateId = ID_MAKERS[opt['generate-id']];
// After the io server: Engine.IO replaces every earlier listener by its own, which calls them.
countEngine({ server, io, stats, path: opt.path });
if (opt.handshake) spoilHandshake(server, opt.handshake);

if (modern) io.of('/other').on('connection', (socket) => socket.on('whoami', (ack) => ack(opt.name)));
io.on('connection', (socket) => {
  // `echo` acknowledges; `n` comes back as an event with the worker's name: lost, doubled and reordered messages show.
  socket.on('echo', (value, ack) => typeof ack === 'function' && ack(value));
  socket.on('n', (i) => socket.emit('n', i, opt.name));
  socket.on('whoami', (ack) => ack(opt.name));
  socket.on('push', (count) => {
    for (let i = 0; i < count; i++) socket.emit('pushed', i, opt.name);
  });
});

announce(server, {
  name: opt.name,
  port: opt.port,
  daemon: opt.daemon,
  commands: {
    // The application ends every session itself (socket.disconnect): clients must see that, not a broken connection.
    'disconnect-all': () => Object.values(socketsOf(io)).forEach((socket) => socket.disconnect(true)),
  },
});

// An ordinary request that says whose it is (x-socket-id, or ?socketId=): Engine.IO's sid, or Socket.IO's own id in any
// namespace.
function follow({ req, res, query }) {
  const id = req.headers['x-socket-id'] || query.get('socketId');
  const spaces = modern ? [...io._nsps.values()] : Object.values(io.nsps);
  const has = spaces.some(({ sockets }) => (sockets instanceof Map ? sockets.has(id) : id in sockets)) || id in io.engine.clients;
  if (!has) stats.strangers = (stats.strangers || 0) + 1;
  res.writeHead(has ? 200 : 404, { 'content-type': 'application/json', 'x-worker': opt.name }).end(JSON.stringify({ worker: opt.name, has }));
}

function socketsOf(io) {
  const sockets = io.of('/').sockets; // a Map since v3, an object before
  return sockets instanceof Map ? Object.fromEntries(sockets) : sockets;
}
