// Counts what reaches one Socket.IO worker, by looking only: wraps the server's listeners and Engine.IO's own `verify`,
// which every version asks before it serves a request (`connection_error` exists in v4 only).
'use strict';

/** Fills `stats` and gives it `read()`; call it after the io server has been attached. */
function countEngine({ server, io, stats, path }) {
  const engine = io.engine;
  Object.assign(stats, {
    handshakes: 0, // Engine.IO sessions ever made
    connections: 0, // Socket.IO `connection` events
    disconnects: {}, // Socket.IO `disconnect` by reason
    errors: {}, // requests Engine.IO turned away, by code: 1 = "Session ID unknown"
    refused: {}, // the same for code 1 only, by method (WS = upgrade)
    requests: {}, // under the path, by method (WS = upgrade)
    with_sid: {}, // those of them that carried a sid
    addresses: {}, // the same requests by the address their connection came from
    broken_polls: 0, // GETs whose connection ended before their answer
    broken_posts: 0,
    open_polls: 0,
  });
  stats.read = () => ({ ...stats, live: engine.clientsCount });

  engine.on('connection', () => stats.handshakes++);
  io.on('connection', (socket) => {
    stats.connections++;
    socket.on('disconnect', (reason) => add(stats.disconnects, reason));
  });

  const verify = engine.verify;
  engine.verify = function (req, upgrade, done) {
    return verify.call(this, req, upgrade, (code, ...rest) => {
      if (code !== undefined && code !== null) {
        add(stats.errors, code);
        if (code === 1) add(stats.refused, upgrade ? 'WS' : req.method);
      }
      done(code, ...rest);
    });
  };

  const note = (req, method) => {
    add(stats.requests, method);
    add(stats.addresses, req.socket.remoteAddress || 'unix');
    if (new URL(req.url, 'http://worker').searchParams.get('sid')) add(stats.with_sid, method);
  };
  server.prependListener('upgrade', (req) => req.url.startsWith(path) && note(req, 'WS'));
  server.prependListener('request', (req, res) => {
    if (!req.url.startsWith(path)) return;
    note(req, req.method);
    if (req.method === 'GET') stats.open_polls++;
    res.on('close', () => {
      if (req.method === 'GET') stats.open_polls--;
      if (res.writableFinished) return;
      if (req.method === 'GET') stats.broken_polls++;
      if (req.method === 'POST') stats.broken_posts++;
    });
  });
}

const add = (counts, key) => (counts[key] = (counts[key] || 0) + 1);

/** Lets answers to handshakes leave as a bad network would deliver them: `bytes` = one by one, `late` = 300 ms after the head. */
function spoilHandshake(server, how) {
  server.prependListener('request', (req, res) => {
    const query = new URL(req.url, 'http://worker').searchParams;
    if (!query.get('EIO') || query.get('sid')) return;
    const end = res.end;
    res.end = (body) => {
      const bytes = Buffer.from(body || '');
      if (!bytes.length) return end.call(res, body);
      res.flushHeaders();
      if (how === 'late') return setTimeout(() => end.call(res, bytes), 300);
      req.socket.setNoDelay(true);
      let i = 0;
      // A turn of the event loop between two writes makes two segments of them.
      const next = () => {
        if (i === bytes.length) return end.call(res);
        res.write(bytes.subarray(i, ++i));
        setImmediate(next);
      };
      next();
    };
  });
}

module.exports = { countEngine, spoilHandshake };
