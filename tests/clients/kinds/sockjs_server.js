// One SockJS worker: an echo that says who it is. Heartbeats end a quiet poll, after `--heartbeat` ms.
'use strict';
const { parseArgs } = require('util');
const sockjs = require('sockjs');
const { createWorker, announce } = require('../lib/worker');

const { values: opt } = parseArgs({
  options: {
    name: { type: 'string', default: `w${process.pid}` },
    port: { type: 'string', default: '0' },
    heartbeat: { type: 'string', default: '300' },
  },
});

const stats = { made: 0, live: 0, refused: 0, requests: 0 };
const server = createWorker({ name: opt.name, stats, skip: (req) => req.url.startsWith('/echo/') });
const echo = sockjs.createServer({ prefix: '/echo', heartbeat_delay: Number(opt.heartbeat), disconnect_delay: 20000, log: () => {} });
echo.on('connection', (session) => {
  if (!session) return;
  stats.made++;
  stats.live++;
  session.on('data', (text) => session.write(JSON.stringify({ worker: opt.name, text })));
  session.on('close', () => stats.live--);
});
// SockJS replaces every earlier listener by its own, which calls them.
echo.installHandlers(server);
server.prependListener('request', (req, res) => {
  if (!req.url.startsWith('/echo/')) return;
  stats.requests++;
  res.on('finish', () => res.statusCode === 404 && stats.refused++);
});
announce(server, { name: opt.name, port: opt.port });
