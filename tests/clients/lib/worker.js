// What every test worker process has in common, whatever protocol it speaks: an http server with a few plain routes,
// counters that can be asked for, one JSON line when it listens, and a life that ends with its parent's.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');
const readline = require('readline');

/** An http server with the plain routes and `more`; the caller attaches its protocol, then calls `announce`. */
function createWorker({ name, stats, tls, skip = () => false, more = {} }) {
  const serve = (req, res) => {
    if (skip(req)) return; // belongs to the protocol's own listener
    const url = new URL(req.url, 'http://worker');
    const route = ROUTES[url.pathname] || more[url.pathname];
    if (route) return route({ req, res, query: url.searchParams, name, stats });
    res.writeHead(404, { 'content-type': 'text/plain', 'x-worker': name }).end('no such route\n');
  };
  const [cert, key] = tls ? tls.split(',').map((file) => fs.readFileSync(file)) : [];
  const server = tls ? https.createServer({ cert, key }, serve) : http.createServer(serve);
  // What a proxy's pool looks like from here: new connections are counted, idle ones are closed after Node's own 5 s.
  stats.tcp_connections = 0;
  server.on('connection', () => stats.tcp_connections++);
  return server;
}

const json = (res, name, value) =>
  res.writeHead(200, { 'content-type': 'application/json', 'x-worker': name }).end(JSON.stringify(value));

const ROUTES = {
  '/health': ({ res, name }) => res.writeHead(200, { 'x-worker': name }).end('ok\n'),

  // Raw headers too: order, case and duplicates are what tests of a proxy look at.
  '/who': ({ req, res, name }) =>
    json(res, name, {
      name,
      pid: process.pid,
      method: req.method,
      url: req.url,
      http: req.httpVersion,
      remote: req.socket.remoteAddress,
      headers: req.headers,
      raw_headers: req.rawHeaders,
    }),

  '/stats': ({ res, name, stats }) => json(res, name, typeof stats.read === 'function' ? stats.read() : stats),

  '/slow': ({ res, query, name }) => setTimeout(() => json(res, name, { name }), Number(query.get('ms') || 1000)),

  '/echo': ({ req, res, name }) => {
    const head = { 'x-worker': name };
    if (req.headers['content-type']) head['content-type'] = req.headers['content-type'];
    if (req.headers['content-length']) head['content-length'] = req.headers['content-length'];
    res.writeHead(200, head);
    req.pipe(res);
  },

  // `n` events (0: without end), one every `ms`.
  '/sse': ({ res, query, name }) => {
    const count = Number(query.get('n') || 0);
    res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', 'x-worker': name });
    let i = 0;
    const timer = setInterval(() => {
      res.write(`data: ${++i}\n\n`);
      if (i === count) res.end();
    }, Number(query.get('ms') || 50));
    res.on('close', () => clearInterval(timer));
  },

  // `bytes` of body with back-pressure honoured, to see whether a proxy holds it all in memory.
  '/bytes': ({ res, query, name }) => {
    let left = Number(query.get('bytes') || 0);
    res.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': left, 'x-worker': name });
    const piece = Buffer.alloc(65536, 'x');
    const push = () => {
      while (left > 0) {
        const n = Math.min(left, piece.length);
        left -= n;
        if (!res.write(n === piece.length ? piece : piece.subarray(0, n))) return res.once('drain', push);
      }
      res.end();
    };
    push();
  },
};

/**
 * Listens, prints `{"port","path","pid","name"}`, and obeys lines on stdin:
 *   close     graceful server.close(): refuses connects, keeps what is open
 *   busy MS   blocks the event loop: a worker that accepts but does not answer, and then wakes
 *   exit      process.exit, without closing anything
 * plus what `commands` adds. The end of stdin ends the process, so that no worker outlives its test; with `daemon` it goes on, for PM2.
 */
function announce(server, { name, port, daemon = false, commands = {} }) {
  // As an app does with process.env.PORT: digits are a port, anything else is the path of a unix socket.
  const where = /^\d+$/.test(String(port)) ? { port: Number(port), host: '127.0.0.1' } : { path: String(port) };
  server.on('error', (error) => {
    process.stderr.write(`${name}: ${error.message}\n`);
    process.exit(1);
  });
  server.listen(where, () => {
    const at = server.address();
    const line = { port: at.port ?? null, path: typeof at === 'string' ? at : null, pid: process.pid, name };
    process.stdout.write(JSON.stringify(line) + '\n');
  });
  const all = {
    close: () => server.close(),
    busy: (ms) => {
      const end = Date.now() + Number(ms);
      while (Date.now() < end);
    },
    exit: () => process.exit(0),
    ...commands,
  };
  if (daemon) return;
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const [command, ...args] = line.trim().split(/\s+/);
    if (all[command]) all[command](...args);
    else if (command) process.stderr.write(`${name}: unknown command ${command}\n`);
  });
  lines.on('close', () => process.exit(0));
}

module.exports = { createWorker, announce };
