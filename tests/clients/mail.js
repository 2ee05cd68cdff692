// One real client that gets queued messages: socket.io-client of version 4 or 2, or a plain WebSocket. It prints each
// message as a JSON line. Options: see README.md.
'use strict';
const LIBRARIES = { 4: 'socket.io-client', 2: 'socket.io-client-2' };

const options = JSON.parse(process.argv[2]);
const { url, kind = 'io', version = 4, namespaces = ['/'], auth, query, transports } = options;
// Only with `tls`: a folder, and the name of the client's certificate and key in it. The server's has another name.
const read = (file) => require('node:fs').readFileSync(`${options.tls.folder}/${options.tls.name}.${file}`);
const tls = options.tls && { cert: read('pem'), key: read('key'), rejectUnauthorized: false };
const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
process.stdin.on('end', () => process.exit(0)).resume();

if (kind === 'ws') {
  const { WebSocket } = require('ws');
  const client = new WebSocket(url, tls);
  client.on('open', () => say('connect'));
  client.on('message', (data) => say('message', { text: data.toString() }));
  client.on('close', (code) => say('disconnect', { code }));
  client.on('error', (error) => say('error', { message: error.message }));
} else {
  const io = require(LIBRARIES[version]);
  const manager = new io.Manager(url, { reconnection: false, ...(transports && { transports }), ...(query && { query }), ...tls });
  for (const namespace of namespaces) {
    const socket = manager.socket(namespace, auth && { auth });
    const at = { ns: namespace };
    socket.on('connect', () => {
      say('connect', { ...at, sid: manager.engine.id, transport: manager.engine.transport.name });
      // Only with `join`: asks the worker for a room (bus_worker.cjs).
      if (options.join) socket.emit('join', options.join, () => say('joined', at));
    });
    socket.on('order', (...args) => say('message', { ...at, args }));
    socket.on('disconnect', (reason) => say('disconnect', { ...at, reason }));
    socket.on('connect_error', (error) => say('error', { ...at, message: error.message }));
    // Only with `pings`: an event for the worker, whose answer ends a poll that waits.
    if (options.pings) setInterval(() => socket.emit('echo', 'x', () => {}), options.pings).unref();
    socket.connect?.();
  }
}
