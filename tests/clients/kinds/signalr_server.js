// One SignalR worker, by the specification (the pages TransportProtocols and HubProtocol of aspnetcore): negotiate
// versions 0 and 1, WebSockets, server-sent events and long polling, JSON hub protocol. The hub's methods are `whoami`
// and `push` (an invocation of the client's `pushed`). Refusals are ASP.NET Core's own: 404 "No Connection with that
// ID", 400 "Connection ID required".
'use strict';
const { parseArgs } = require('util');
const { randomBytes } = require('crypto');
const { WebSocketServer } = require('ws');
const { createWorker, announce } = require('../lib/worker');

const { values: opt } = parseArgs({
  options: {
    name: { type: 'string', default: `w${process.pid}` },
    port: { type: 'string', default: '0' },
    'negotiate-version': { type: 'string', default: '1' }, // 0: as ASP.NET Core 2.x, whatever the client can
    'poll-timeout': { type: 'string', default: '300' }, // ms until an empty poll is answered; ASP.NET Core: 90 s
  },
});

const stats = { made: 0, live: 0, refused: 0, by_public_id: 0 };
const connections = new Map(); // by connectionToken (version 0: connectionId)
const publicIds = new Set();
const END = '\x1e';

class Connection {
  constructor(token) {
    Object.assign(this, { token, out: [], poll: null, send: null, greeted: false });
    stats.made++;
    stats.live++;
  }
  /** One record of the hub protocol from the client. */
  receive(text) {
    for (const record of text.split(END).filter(Boolean)) {
      const message = JSON.parse(record);
      if (!this.greeted) {
        this.greeted = true;
        this.write({});
      } else if (message.type === 1) {
        if (message.target === 'push') this.write({ type: 1, target: 'pushed', arguments: [opt.name] });
        if (message.invocationId) this.write({ type: 3, invocationId: message.invocationId, result: opt.name });
      } else if (message.type === 6) this.write({ type: 6 });
      else if (message.type === 7) this.close();
    }
  }
  write(message) {
    this.out.push(JSON.stringify(message) + END);
    this.flush();
  }
  flush() {
    if (!this.send || !this.out.length) return;
    const all = this.out.join('');
    this.out = [];
    this.send(all);
  }
  close() {
    if (connections.delete(this.token)) stats.live--;
    this.end?.();
  }
}

const refuse = (res, status, text) => res.writeHead(status, { 'content-type': 'text/plain', 'content-length': Buffer.byteLength(text) }).end(text);
const id = () => randomBytes(16).toString('base64url');

function negotiate(res, query) {
  const version = Math.min(Number(query.get('negotiateVersion') || 0), Number(opt['negotiate-version']));
  const connectionId = id();
  const connectionToken = version ? id() : connectionId;
  publicIds.add(connectionId);
  connections.set(connectionToken, new Connection(connectionToken));
  const availableTransports = [
    { transport: 'WebSockets', transferFormats: ['Text', 'Binary'] },
    { transport: 'ServerSentEvents', transferFormats: ['Text'] },
    { transport: 'LongPolling', transferFormats: ['Text', 'Binary'] },
  ];
  const body = JSON.stringify({ negotiateVersion: version, connectionId, ...(version && { connectionToken }), availableTransports });
  res.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }).end(body);
}

function poll(connection, res) {
  // A newer poll ends the older one, with what a client takes for the end: one that was doubled on the way shows.
  if (connection.poll) connection.end();
  // The first poll is answered at once and empty: the client knows by it that it is connected.
  if (!connection.polled) {
    connection.polled = true;
    return res.writeHead(200, { 'content-length': 0 }).end();
  }
  const finish = (status, body = '') => {
    clearTimeout(late);
    connection.poll = connection.send = connection.end = null;
    res.writeHead(status, { 'content-type': 'application/octet-stream' }).end(body);
  };
  const late = setTimeout(() => finish(200), Number(opt['poll-timeout']));
  connection.poll = res;
  connection.send = (all) => finish(200, all);
  connection.end = () => finish(204);
  res.on('close', () => {
    if (res.writableFinished) return;
    clearTimeout(late);
    connection.poll = connection.send = connection.end = null;
  });
  connection.flush();
}

function events(connection, res) {
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache,no-store' });
  res.write('\r\n');
  connection.send = (all) => res.write(`data: ${all}\r\n\r\n`);
  connection.end = () => res.end();
  res.on('close', () => connection.close());
  connection.flush();
}

const server = createWorker({ name: opt.name, stats, skip: (req) => /^\/(hubs\/)?hub\b/.test(req.url) });
server.on('request', (req, res) => {
  if (!/^\/(hubs\/)?hub\b/.test(req.url)) return;
  res.setHeader('x-worker', opt.name);
  const { pathname, searchParams } = new URL(req.url, 'http://worker');
  const body = [];
  req.on('data', (piece) => body.push(piece));
  req.on('end', () => {
    if (pathname.endsWith('/negotiate')) return req.method === 'POST' ? negotiate(res, searchParams) : refuse(res, 405, '');
    const token = searchParams.get('id');
    if (!token) return refuse(res, 400, 'Connection ID required');
    const connection = connections.get(token);
    if (!connection) {
      stats.refused++;
      if (publicIds.has(token)) stats.by_public_id++;
      return refuse(res, 404, 'No Connection with that ID');
    }
    if (req.method === 'POST') {
      connection.receive(Buffer.concat(body).toString());
      return res.writeHead(200, { 'content-length': 0 }).end();
    }
    if (req.method === 'DELETE') {
      connection.close();
      return res.writeHead(202, { 'content-type': 'text/plain', 'content-length': 0 }).end();
    }
    if ((req.headers.accept || '').includes('text/event-stream')) return events(connection, res);
    return poll(connection, res);
  });
});

const sockets = new WebSocketServer({ noServer: true });
server.on('upgrade', (req, socket, head) => {
  const token = new URL(req.url, 'http://worker').searchParams.get('id');
  // Without an id a WebSocket is a connection of its own (skipNegotiation).
  const connection = token ? connections.get(token) : new Connection(id());
  if (!connection) {
    stats.refused++;
    const text = 'No Connection with that ID';
    return socket.end(`HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: ${text.length}\r\nConnection: close\r\n\r\n${text}`);
  }
  sockets.handleUpgrade(req, socket, head, (ws) => {
    connection.send = (all) => ws.send(all);
    connection.end = () => ws.close();
    ws.on('message', (data) => connection.receive(data.toString()));
    ws.on('error', () => {});
    ws.on('close', () => connection.close());
    connection.flush();
  });
});

announce(server, { name: opt.name, port: opt.port });
