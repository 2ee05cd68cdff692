'use strict';
// stickyd's preload for Node.js workers: `node --require bus.cjs`. It replaces Socket.IO's default in-memory adapter
// (socket.io 4.0 and later) with one that reaches the servers of the other workers through stickyd's hub.
//
// Until the process creates a Socket.IO server, the preload opens nothing, starts nothing and writes nothing: it only
// looks at the names of the modules that are loaded. An adapter that the application sets itself is left alone.
// No call rejects because of the bus: a request to other workers ends with the answers that came.
// The frames are described in src/bus/frame.rs.

const Module = require('node:module');
// Tools for tests replace these of `globalThis`.
const { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval } = globalThis;
const address = process.env.STICKYD_BUS;
if (address && !globalThis[Symbol.for('stickyd.bus')]) {
  globalThis[Symbol.for('stickyd.bus')] = true;
  const load = Module._load;
  const patched = new WeakSet();
  Module._load = function (request, parent, isMain) {
    const exports = load.apply(this, arguments);
    // Both `require('socket.io')` and the file that Node loads for `import 'socket.io'`.
    if (typeof request === 'string' && request.includes('socket.io')) {
      quietly(() => {
        const Server = Object(exports).Server;
        if (typeof Server !== 'function' || patched.has(Server) || !Server.prototype?.adapter) return;
        if (replaceAdapter(Server, Module._resolveFilename(request, parent, isMain))) patched.add(Server);
      });
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
/** Milliseconds for which they are kept: what the hub could not hand on until then is old news. */
const KEEP_TIME = 60000;
/** Longest frame that a peer may send, in bytes. */
const LONGEST = 64 * 1024 * 1024;
/** Longest frame that this side sends: the hub adds some numbers before it hands the frame on. */
const LONGEST_SENT = LONGEST - 1024;
/** Milliseconds between two attempts to reach the hub, at first, and at most if the hub refuses the link. */
const RETRY = 250, LONGEST_RETRY = 5000;
/** Milliseconds without any progress after which a hub that leaves `KEEP` bytes unread is given up. */
const STALL = 2000;
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
const servers = new Map();

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
    this.retry = RETRY;
    onExit();
    // `path()` may still be called after the constructor; the name of the group depends on it.
    setImmediate(() => quietly(() => this.connect()));
  }

  connect() {
    if (this.closed || this.socket) return;
    this.key = this.key ?? groupKey(this.server);
    const socket = net().connect(address);
    this.socket = socket;
    socket.unref();
    const reader = new FrameReader((type, body) => this.receive(type, body), () => socket.destroy());
    // What is kept follows after the welcome, so that a hub that does not read fills no memory.
    socket.on('connect', () => quietly(() => socket.write(frame(TO_HUB.hello, json(this.hello())))));
    socket.on('data', (data) => quietly(() => reader.read(data)));
    socket.on('error', () => {});
    socket.on('close', () => this.socket === socket && quietly(() => this.lost()));
  }

  /** A server that was closed and serves again is linked again. */
  reopen() {
    if (!this.closed) return;
    this.closed = false;
    servers.set(this.server, this);
    quietly(() => this.connect());
  }

  hello() {
    const recovery = this.server.opts?.connectionStateRecovery?.maxDisconnectionDuration ?? 0;
    return {
      version: 1, upstream: process.env.STICKYD_BUS_UPSTREAM ?? '', path: this.key, member: hex(this.member),
      pid: process.pid, worker: process.env.STICKYD_INSTANCE ?? '', node: process.versions.node, socketio: this.version,
      recovery, since: this.since ?? 0, seen: this.position ? Object.fromEntries(this.seen) : null,
    };
  }

  /** The link broke: local delivery goes on, requests end with what came, and the link is made again. */
  lost() {
    this.live = false;
    this.socket = null;
    for (const peer of [...this.peers.keys()]) this.left(peer);
    for (const request of [...this.requests.values()]) request.end();
    this.longAnswers.clear();
    if (this.closed) return;
    setTimeout(() => quietly(() => this.connect()), this.retry).unref();
    this.retry = Math.min(2 * this.retry, LONGEST_RETRY);
  }

  left(peer) {
    this.peers.delete(peer);
    for (const key of [...this.longAnswers.keys()]) if (key.startsWith(peer)) this.longAnswers.delete(key);
    for (const request of [...this.requests.values()]) request.without(peer);
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    servers.delete(this.server);
    this.facts?.stop();
    this.facts = null;
    const socket = this.socket;
    if (this.live) socket?.end();
    else socket?.destroy();
    if (socket) this.lost();
    // What was not confirmed has been sent. A closed link is not made anew, so it is not sent again.
    this.unacked = [];
    this.unackedBytes = 0;
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
    this.retry = RETRY;
    this.forgetOld();
    for (const { bytes } of this.unacked) this.write(bytes);
    if (!this.position) this.position = answer.position;
    this.since = this.since ?? answer.position;
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
    const { q, n } = message.header;
    const adapter = this.adapters.get(n);
    const done = adapter && quietly(() => (adapter.handle(origin, message), true));
    // A worker that has no such namespace, or cannot read the question, is not waited for.
    if (!done && q !== undefined) this.tell(origin, pack({ q, none: 1 }));
  }

  /** Sends an answer to one peer. */
  tell(peer, payload) {
    const to = Buffer.from(peer, 'hex');
    if (this.send(TO_HUB.direct, to, payload)) return;
    this.send(TO_HUB.direct, to, pack({ q: unpack(payload).header.q, none: 1 }));
  }

  direct(origin, payload) {
    this.heard(origin);
    const answer = unpack(payload);
    // The asker has read a part of a long answer and wants the next one.
    if (answer.header.k === 'next') this.longAnswers.get(origin + answer.header.q)?.();
    else if (answer.header.none) this.requests.get(answer.header.q)?.without(origin);
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

  /** Publishes to all other members; the frame is kept until the hub has handed it to them. Returns whether it will. */
  publish(payload, flags, about) {
    if (this.closed) return false;
    const header = about ? json(about) : [];
    const head = Buffer.allocUnsafe(17);
    if (payload.length + header.length > LONGEST_SENT) return false;
    head.writeUIntBE(++this.sequence, 0, 6);
    head.writeUIntBE(this.position, 6, 6);
    head.writeUInt8(flags, 12);
    head.writeUInt32BE(header.length, 13);
    const bytes = frame(TO_HUB.publish, head, header, payload);
    this.unacked.push({ sequence: this.sequence, bytes, at: Date.now() });
    this.unackedBytes += bytes.length;
    while (this.unackedBytes > KEEP && this.unacked.length > 1) this.forgetFirst();
    if (this.live) this.write(bytes);
    return true;
  }

  forgetFirst() {
    this.unackedBytes -= this.unacked.shift().bytes.length;
  }

  forgetOld() {
    const old = Date.now() - KEEP_TIME;
    while (this.unacked.length && this.unacked[0].at < old) this.forgetFirst();
  }

  /** Sends a frame that is not kept. Returns false if it is too long. */
  send(type, ...parts) {
    if (parts.reduce((sum, part) => sum + part.length, 0) > LONGEST_SENT) return false;
    if (this.live) this.write(frame(type, ...parts));
    return true;
  }

  /** Frames of one turn of the event loop leave in one system call. */
  write(bytes) {
    const { socket } = this;
    if (socket.writableLength > KEEP && this.isStuck(socket)) return void socket.destroy();
    if (this.corked !== socket) {
      this.corked = socket;
      socket.cork();
      process.nextTick(() => this.flush(socket));
    }
    socket.write(bytes);
  }

  flush(socket) {
    socket.uncork();
    if (this.corked === socket) this.corked = null;
  }

  /** Whether the hub reads nothing, for some time, of more than `KEEP` bytes; or has left far more than that. */
  isStuck(socket) {
    const written = socket.bytesWritten - socket.writableLength;
    if (this.progress?.socket !== socket || this.progress.written !== written) {
      this.progress = { socket, written, at: Date.now() };
    }
    return Date.now() - this.progress.at > STALL || socket.writableLength > LONGEST + KEEP;
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
    this.heardFrom = new Set();
  }

  /** `one` returns 'more' where this peer will say more. */
  answer(peer, answer) {
    this.heardFrom.add(peer);
    if (quietly(() => this.one(answer, peer)) !== 'more') return this.without(peer);
    this.timer.refresh();
  }

  /** Peers that did not answer are not waited for again until they speak. */
  silence() {
    for (const peer of this.waiting) this.giveUp(peer);
    this.end();
  }

  /** Peers that have said nothing at all after this time are no longer waited for. */
  expectWithin(ms) {
    this.soon = setTimeout(() => {
      for (const peer of this.waiting) if (!this.heardFrom.has(peer)) this.giveUp(peer) || this.without(peer);
    }, ms);
  }

  giveUp(peer) {
    if (this.link.peers.has(peer)) this.link.peers.set(peer, Date.now());
  }

  without(peer) {
    if (this.waiting.delete(peer) && !this.waiting.size) this.end();
  }

  end() {
    if (!this.link.requests.delete(this.id)) return;
    clearTimeout(this.timer);
    clearTimeout(this.soon);
    quietly(() => this.ends());
  }
}

/** Reports what an operator wants to know about this process: the lag of its event loop, its heap, its sockets. */
class Facts {
  constructor(link) {
    this.lag = require('node:perf_hooks').monitorEventLoopDelay({ resolution: 50 });
    this.lag.enable();
    this.timer = setInterval(() => quietly(() => this.report(link)), REPORT).unref();
    quietly(() => this.report(link));
  }

  report(link) {
    const heap = process.memoryUsage();
    const lag = this.lag.count > 0 ? this.lag : { mean: 5e7, percentile: () => 5e7 };
    link.send(TO_HUB.facts, json({
      lag_ms: Math.max(0, lag.mean / 1e6 - 50), lag_p99_ms: Math.max(0, lag.percentile(99) / 1e6 - 50),
      heap_used: heap.heapUsed, heap_total: heap.heapTotal,
      clients: link.server.engine?.clientsCount ?? 0, sockets: link.server.sockets?.sockets?.size ?? 0,
      port: Number(link.server.httpServer?.address?.()?.port) || 0,
    }));
    this.lag.reset();
  }

  stop() {
    clearInterval(this.timer);
    this.lag.disable();
  }
}

let exits = false;

/** What was published just before `process.exit` is written to the hub at once, as far as the system takes it. */
function onExit() {
  if (exits) return;
  exits = true;
  process.on('exit', () => {
    for (const { corked } of servers.values()) quietly(() => corked?.uncork());
  });
}

/** Calls a function of the application. An error in it is its own, not one of the bus: it is thrown as usual. */
const callOut = (work) => process.nextTick(work);

/** Servers of one process that share a path are told apart by the order in which they were created. */
function groupKey(server) {
  const path = typeof server.path === 'function' ? String(server.path()) : '';
  const taken = new Set([...servers.values()].map((link) => link.key));
  for (let n = 0; ; n++) {
    const key = n ? `${path}#${n}` : path;
    if (!taken.has(key)) return key;
  }
}

