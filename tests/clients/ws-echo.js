// One worker process that echoes WebSocket messages with the `ws` library: what tunnels are tested against. Options:
// see README.md.
'use strict';
const { parseArgs } = require('util');
const { WebSocketServer } = require('ws');
const { createWorker, announce } = require('./lib/worker');

const { values: opt } = parseArgs({
  options: {
    port: { type: 'string', default: process.env.PORT || '0' },
    daemon: { type: 'boolean' }, // lives on without stdin: under PM2 or systemd
    name: { type: 'string', default: `ws${process.pid}` },
    first: { type: 'string' }, // a message sent in the same TCP write as the 101
    'permessage-deflate': { type: 'boolean' },
    'not-websocket': { type: 'string' }, // this text instead of frames, then FIN: Engine.IO 4 answers EIO=3 so
  },
});

const stats = { opened: 0, open: 0, messages: 0, bytes: 0, pings: 0, pongs: 0, closes: {} };
const server = createWorker({ name: opt.name, stats });
const sockets = new WebSocketServer({
  noServer: true,
  // Threshold 0: every message compressed, so that RSV1 is really on the wire.
  perMessageDeflate: opt['permessage-deflate'] ? { threshold: 0 } : false,
  maxPayload: 512 * 1024 * 1024,
});

server.on('upgrade', (req, socket, head) => {
  socket.cork(); // the 101 and what follows at once leave together
  sockets.handleUpgrade(req, socket, head, (ws) => {
    if (opt['not-websocket']) {
      socket.end(opt['not-websocket']);
      return socket.uncork();
    }
    if (opt.first) ws.send(opt.first, { compress: false });
    socket.uncork();
    serve(ws);
  });
});

function serve(ws) {
  stats.opened++;
  stats.open++;
  ws.on('message', (data, binary) => {
    stats.messages++;
    stats.bytes += data.length;
    // Back-pressure: a reader that stops reading stops this writer, not this process's memory.
    ws.send(data, { binary }, () => ws.isPaused && ws.resume());
    if (ws.bufferedAmount > 1 << 20) ws.pause();
  });
  ws.on('ping', () => stats.pings++); // `ws` has answered it already
  ws.on('pong', () => stats.pongs++);
  ws.on('error', () => {});
  ws.on('close', (code) => {
    stats.open--;
    stats.closes[code] = (stats.closes[code] || 0) + 1; // the code that came; `ws` has echoed it; 1006 = none came
  });
}

announce(server, {
  name: opt.name,
  port: opt.port,
  daemon: opt.daemon,
  commands: {
    'close-all': (code, ...reason) => sockets.clients.forEach((ws) => ws.close(Number(code || 1000), reason.join(' '))),
    'terminate-all': () => sockets.clients.forEach((ws) => ws.terminate()),
    'ping-all': () => sockets.clients.forEach((ws) => ws.ping('are you there')),
  },
});
