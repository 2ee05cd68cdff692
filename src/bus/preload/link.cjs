'use strict';
// stickyd's preload for Node.js workers: `node --require bus.cjs`. It replaces Socket.IO's default in-memory adapter
// (socket.io 4.0 and later) with one that reaches the servers of the other workers through stickyd's hub.
//
// Until the process creates a Socket.IO server, the preload opens nothing, starts nothing and writes nothing: it only
// looks at the names of the modules that are loaded. An adapter that the application sets itself is left alone.
// No call rejects because of the bus: a request to other workers ends with the answers that came.
// The frames are described in src/bus/frame.rs.

const Module = require('node:module');
const address = process.env.STICKYD_BUS;
if (address && !globalThis[Symbol.for('stickyd.bus')]) {
  globalThis[Symbol.for('stickyd.bus')] = true;
  const load = Module._load;
  const patched = new WeakSet();
  Module._load = function (request, parent, isMain) {
    const exports = load.apply(this, arguments);
    // Both `require('socket.io')` and the file that Node loads for `import 'socket.io'`.
    if (typeof request === 'string' && request.includes('socket.io') && !patched.has(Object(exports).Server)) {
      const Server = Object(exports).Server;
      if (typeof Server === 'function' && typeof Server.prototype.adapter === 'function') {
        patched.add(Server);
        quietly(() => replaceAdapter(Server, Module._resolveFilename(request, parent, isMain)));
      }
    }
    return exports;
  };
}

/** Runs `work`; an error in it must not reach the application. */
function quietly(work) {
  try {
    return work();
  } catch (error) {
    if (process.env.STICKYD_BUS_DEBUG) process.stderr.write(`stickyd bus: ${error.stack}\n`);
  }
}

// --- the link to the hub ------------------------------------------------------------------------------------------

/** Bytes of published messages that a link keeps until the hub has handed them on; the oldest go first. */
const KEEP = 8 * 1024 * 1024;
/** Longest frame that a peer may send, in bytes. */
const LONGEST = 64 * 1024 * 1024;
/** Milliseconds between two attempts to reach the hub. */
const RETRY = 250;
/** Milliseconds that a request to the other workers waits for their answers. */
const PATIENCE = 5000;
/** Milliseconds between two reports of facts about this process. */
const REPORT = 5000;

const TO_HUB = { hello: 1, publish: 2, direct: 3, session: 4, restore: 5, facts: 6 };
const FROM_HUB = { welcome: 1, message: 2, direct: 3, ack: 4, joined: 5, left: 6, restored: 7 };
/** Bits of a published message: the hub keeps it for recovery; it is an ordinary broadcast. */
const RECOVERABLE = 1, BROADCAST = 2;

const net = () => require('node:net');
const hex = (bytes) => bytes.toString('hex');
let servers = new Map();

/** One Socket.IO server's connection to the hub. */
class BusLink {
  constructor(server, version) {
    this.server = server;
    this.version = version;
    this.member = require('node:crypto').randomBytes(8);
    this.adapters = new Map();
    this.peers = new Map(); // member → time at which it stopped answering, or 0
    this.seen = new Map(); // member → number of its last message
    this.unacked = []; // published frames that the hub has not confirmed
    this.unackedBytes = 0;
    this.sequence = 0;
    this.position = 0; // the hub's number of the last message handed to the adapters
    this.requests = new Map();
    this.longAnswers = new Map();
    this.lastRequest = 0;
    this.socket = null;
    this.live = false;
    this.closed = false;
    // `path()` may still be called after the constructor; the name of the group depends on it.
    setImmediate(() => this.connect());
  }

  connect() {
    if (this.closed || this.socket) return;
    this.key = this.key ?? groupKey(this.server);
    const socket = net().connect(address);
    this.socket = socket;
    socket.unref();
    const reader = new FrameReader((type, body) => this.receive(type, body), () => socket.destroy());
    socket.on('connect', () => {
      this.send(TO_HUB.hello, json(this.hello()));
      for (const frame of this.unacked) socket.write(frame.bytes);
    });
    socket.on('data', (data) => reader.read(data));
    socket.on('error', () => {});
    socket.on('close', () => this.lost());
  }

  hello() {
    const recovery = this.server.opts?.connectionStateRecovery?.maxDisconnectionDuration ?? 0;
    return {
      version: 1, upstream: process.env.STICKYD_BUS_UPSTREAM ?? '', path: this.key, member: hex(this.member),
      pid: process.pid, worker: process.env.STICKYD_INSTANCE ?? '', node: process.versions.node, socketio: this.version,
      recovery, sequence: this.sequence, seen: this.position ? Object.fromEntries(this.seen) : null,
    };
  }

  /** The link broke: local delivery goes on, requests end with what came, and the link is made again. */
  lost() {
    this.live = false;
    this.socket = null;
    for (const peer of [...this.peers.keys()]) this.left(peer);
    for (const request of [...this.requests.values()]) request.end();
    if (!this.closed) setTimeout(() => this.connect(), RETRY).unref();
  }

  left(peer) {
    this.peers.delete(peer);
    for (const request of [...this.requests.values()]) request.without(peer);
  }

  close() {
    this.closed = true;
    servers.delete(this.server);
    this.facts?.stop();
    this.socket?.end();
  }

  receive(type, body) {
    switch (type) {
      case FROM_HUB.welcome: return this.welcome(JSON.parse(body.toString()));
      case FROM_HUB.message: return this.message(body);
      case FROM_HUB.direct: return this.direct(hex(body.subarray(0, 8)), body.subarray(8));
      case FROM_HUB.ack: return this.acked(body.readUIntBE(0, 6));
      case FROM_HUB.joined: return void this.peers.set(hex(body), 0);
      case FROM_HUB.left: return this.left(hex(body));
      case FROM_HUB.restored: return this.restored(body);
    }
  }

  welcome(answer) {
    for (const member of answer.members) this.peers.set(member, 0);
    this.live = true;
    if (!this.position) this.position = answer.position;
    this.facts = this.facts ?? new Facts(this);
    for (const adapter of this.adapters.values()) adapter.linked?.();
  }

  message(body) {
    const origin = hex(body.subarray(6, 14)), sequence = body.readUIntBE(14, 6);
    this.position = body.readUIntBE(0, 6);
    if ((this.seen.get(origin) ?? 0) >= sequence) return; // seen before the link was made again
    this.seen.delete(origin);
    this.seen.set(origin, sequence);
    if (this.seen.size > 1024) this.seen.delete(this.seen.keys().next().value);
    this.heard(origin);
    const message = unpack(body.subarray(20));
    this.adapters.get(message.header.n)?.handle(origin, message);
  }

  direct(origin, payload) {
    this.heard(origin);
    const answer = unpack(payload);
    // The asker has read a part of a long answer and wants the next one.
    if (answer.header.k === 'next') this.longAnswers.get(origin + answer.header.q)?.();
    else this.requests.get(answer.header.q)?.answer(origin, answer);
  }

  /** A peer that speaks is waited for again. */
  heard(peer) {
    if (this.peers.get(peer)) this.peers.set(peer, 0);
  }

  acked(sequence) {
    let count = 0;
    while (count < this.unacked.length && this.unacked[count].sequence <= sequence) {
      this.unackedBytes -= this.unacked[count++].bytes.length;
    }
    if (count) this.unacked.splice(0, count);
  }

  /** Publishes to all other members; the frame is kept until the hub has handed it to them. */
  publish(payload, flags, about) {
    const header = about ? json(about) : [];
    const head = Buffer.allocUnsafe(17);
    head.writeUIntBE(++this.sequence, 0, 6);
    head.writeUIntBE(this.position, 6, 6);
    head.writeUInt8(flags, 12);
    head.writeUInt32BE(header.length, 13);
    const bytes = frame(TO_HUB.publish, head, header, payload);
    if (bytes.length > LONGEST) return;
    this.unacked.push({ sequence: this.sequence, bytes });
    this.unackedBytes += bytes.length;
    while (this.unackedBytes > KEEP && this.unacked.length > 1) this.unackedBytes -= this.unacked.shift().bytes.length;
    if (this.socket && !this.socket.connecting) this.write(bytes);
  }

  send(type, ...parts) {
    if (this.socket && !this.socket.connecting) this.write(frame(type, ...parts));
  }

  /** Frames of one turn of the event loop leave in one system call. */
  write(bytes) {
    if (!this.corked) {
      this.corked = this.socket;
      this.corked.cork();
      process.nextTick(() => {
        this.corked.uncork();
        this.corked = null;
      });
    }
    this.socket.write(bytes);
  }

  /** Asks all peers that still answer; `one(answer)` sees each answer, and `end()` is called once. */
  ask(ends) {
    const request = new BusRequest(this, ++this.lastRequest, ends);
    this.requests.set(request.id, request);
    return request;
  }

  restored(body) {
    const length = body.readUInt32BE(0);
    const header = JSON.parse(body.subarray(4, 4 + length).toString());
    this.requests.get(header.request)?.answer('hub', { header, body: body.subarray(4 + length) });
    // The recovered socket joins its rooms before the messages after this answer are delivered.
    return 'pause';
  }
}

/** A request to other workers. It ends when all have answered, are gone, or after `PATIENCE`. */
class BusRequest {
  constructor(link, id, { peers, patience = PATIENCE, answer, end }) {
    Object.assign(this, { link, id, one: answer, ends: end });
    this.waiting = new Set(peers ?? [...link.peers].filter(([, silent]) => !silent).map(([peer]) => peer));
    this.timer = setTimeout(() => this.silence(), patience);
    if (!this.waiting.size) setImmediate(() => this.end());
  }

  /** `one` returns 'more' where this peer will say more. */
  answer(peer, answer) {
    if (quietly(() => this.one(answer, peer)) !== 'more') return this.without(peer);
    this.timer.refresh();
  }

  /** Peers that did not answer are not waited for again until they speak. */
  silence() {
    for (const peer of this.waiting) if (this.link.peers.has(peer)) this.link.peers.set(peer, Date.now());
    this.end();
  }

  without(peer) {
    if (this.waiting.delete(peer) && !this.waiting.size) this.end();
  }

  end() {
    if (!this.link.requests.delete(this.id)) return;
    clearTimeout(this.timer);
    this.ends();
  }
}

/** Splits a stream of bytes into frames: four bytes of length, one of type, the body. */
class FrameReader {
  constructor(each, broken) {
    Object.assign(this, { each, broken, parts: [], size: 0, need: 4, paused: false });
  }

  read(data) {
    this.parts.push(data);
    this.size += data.length;
    if (this.size < this.need || this.paused) return;
    let all = this.parts.length === 1 ? data : Buffer.concat(this.parts, this.size);
    while (all.length >= 4 && !this.paused) {
      const length = all.readUInt32BE(0);
      if (length < 1 || length > LONGEST) return this.broken();
      this.need = 4 + length;
      if (all.length < this.need) break;
      if (quietly(() => this.each(all[4], all.subarray(5, 4 + length))) === 'pause') this.pause();
      all = all.subarray(4 + length);
    }
    if (all.length < 4) this.need = 4;
    this.parts = all.length ? [all] : [];
    this.size = all.length;
  }

  /** The rest is read in the next turn of the event loop, after all promises have settled. */
  pause() {
    this.paused = true;
    setImmediate(() => {
      this.paused = false;
      this.read(Buffer.alloc(0));
    });
  }
}

/** Reports what an operator wants to know about this process: the lag of its event loop, its heap, its sockets. */
class Facts {
  constructor(link) {
    this.lag = require('node:perf_hooks').monitorEventLoopDelay({ resolution: 50 });
    this.lag.enable();
    this.timer = setInterval(() => this.report(link), REPORT).unref();
    this.report(link);
  }

  report(link) {
    const heap = process.memoryUsage();
    const lag = this.lag.count ? this.lag : { mean: 5e7, percentile: () => 5e7 };
    link.send(TO_HUB.facts, json({
      lag_ms: Math.max(0, lag.mean / 1e6 - 50), lag_p99_ms: Math.max(0, lag.percentile(99) / 1e6 - 50),
      heap_used: heap.heapUsed, heap_total: heap.heapTotal, rss: heap.rss,
      clients: link.server.engine?.clientsCount ?? 0, sockets: link.server.sockets?.sockets?.size ?? 0,
    }));
    this.lag.reset();
  }

  stop() {
    clearInterval(this.timer);
    this.lag.disable();
  }
}

// --- frames and payloads ------------------------------------------------------------------------------------------

const json = (value) => Buffer.from(JSON.stringify(value));

function frame(type, ...parts) {
  const head = Buffer.allocUnsafe(5);
  head.writeUInt32BE(1 + parts.reduce((sum, part) => sum + part.length, 0), 0);
  head[4] = type;
  return Buffer.concat([head, ...parts.filter((part) => part.length)]);
}

/** A payload: its header as JSON, then strings and buffers, each with its length and its kind. */
function pack(header, parts = []) {
  const pieces = [];
  for (const part of [JSON.stringify(header), ...parts]) {
    const bytes = typeof part === 'string' ? Buffer.from(part) : Buffer.from(part.buffer, part.byteOffset, part.length);
    const head = Buffer.allocUnsafe(5);
    head.writeUInt32BE(bytes.length, 0);
    head[4] = typeof part === 'string' ? 0 : 1;
    pieces.push(head, bytes);
  }
  return Buffer.concat(pieces);
}

function unpack(payload) {
  const parts = [];
  for (let at = 0; at + 5 <= payload.length;) {
    const end = at + 5 + payload.readUInt32BE(at);
    const bytes = payload.subarray(at + 5, end);
    parts.push(payload[at + 4] ? Buffer.from(bytes) : bytes.toString());
    at = end;
  }
  return { header: JSON.parse(parts.shift()), parts };
}

/** Servers of one process that share a path are told apart by the order in which they were created. */
function groupKey(server) {
  const path = typeof server.path === 'function' ? String(server.path()) : '';
  const taken = new Set([...servers.values()].map((link) => link.key));
  for (let n = 0; ; n++) {
    const key = n ? `${path}#${n}` : path;
    if (!taken.has(key)) return key;
  }
}
