// The adapter of one namespace: what the application calls, and what other workers ask.

/** Bytes of a part of a long answer; the asker asks for the next part. */
const PART = 256 * 1024;

/** Makes Socket.IO's own two default adapters the ones of this file; all others stay. Returns whether it could. */
function replaceAdapter(Server, file) {
  // The package does not export its package.json.
  const about = require('node:path').join(file, '../../package.json');
  const { version } = JSON.parse(require('node:fs').readFileSync(about, 'utf8'));
  if (Number(version.split('.')[0]) < 4) return false;
  const { Adapter, SessionAwareAdapter } = Module.createRequire(file)('socket.io-adapter');
  const { adapter: original, close } = Server.prototype;
  const replace = (Base) => {
    const BusAdapter = busAdapter(Base, Adapter);
    // Called with `new` for each namespace.
    return function (namespace) {
      const server = namespace.server;
      if (!servers.has(server)) servers.set(server, new BusLink(server, version));
      return new BusAdapter(namespace, servers.get(server));
    };
  };
  const replaced = new Map([Adapter, SessionAwareAdapter].filter(Boolean).map((Base) => [Base, replace(Base)]));
  Server.prototype.adapter = function (adapter) {
    if (!arguments.length || adapter === undefined) return original.apply(this, arguments);
    const result = original.call(this, replaced.get(adapter) ?? adapter);
    // The adapters before this one are no longer used, and nothing closes them.
    if (!replaced.has(adapter) && ![...replaced.values()].includes(adapter)) {
      quietly(() => servers.get(this)?.close());
      setImmediate(() => quietly(() => tellOwnAdapter(this, adapter)));
    }
    return result;
  };
  // Before 4.6 nothing tells the adapters that the server is closed.
  Server.prototype.close = function () {
    const result = close.apply(this, arguments);
    quietly(() => servers.get(this)?.close());
    return result;
  };
  return true;
}

/** Tells the hub that the application has an adapter of its own: stickyd's log says why this worker is not linked. */
function tellOwnAdapter(server, adapter) {
  const hello = {
    version: 1, upstream: process.env.STICKYD_BUS_UPSTREAM ?? '', path: groupKey(server),
    member: hex(require('node:crypto').randomBytes(8)), pid: process.pid,
    own_adapter: String(adapter?.name || 'without a name').slice(0, 100),
  };
  const socket = net().connect(address, () => socket.end(frame(TO_HUB.hello, json(hello))));
  socket.on('error', () => {}).unref();
}

/** The adapter that reaches other workers: `Base` locally, with `Plain` as the class that all adapters extend. */
const busAdapter = (Base, Plain) => class BusAdapter extends Base {
  constructor(namespace, link) {
    super(namespace);
    this.link = link;
    this.recovers = Base !== Plain;
    this.open();
  }

  open() {
    this.link.adapters.set(this.nsp.name, this);
    if (this.recovers) this.sessionsOfHub = new HubSessions(this);
  }

  close() {
    quietly(() => {
      this.sessionsOfHub?.stop();
      if (this.link.adapters.get(this.nsp.name) === this) this.link.adapters.delete(this.nsp.name);
      if (!this.link.adapters.size) this.link.close();
    });
    return super.close?.();
  }

  /** A server that was closed may serve again, with the adapters that it has. */
  joins() {
    if (!this.link.adapters.has(this.nsp.name)) this.open();
    this.link.reopen();
  }

  /** After the link was made anew, the hub knows nothing of the sessions here. */
  linked() {
    this.sessionsOfHub?.all();
  }

  // What the application calls. Each does its work here first, exactly as without the bus.

  serverCount() {
    return Promise.resolve(1 + this.link.peers.size);
  }

  broadcast(packet, opts) {
    if (opts.flags?.local) return super.broadcast(packet, opts);
    // Encoded first: old versions of Socket.IO change the packet when they encode it.
    const sent = quietly(() => this.encode(packet));
    super.broadcast(packet, opts);
    if (!sent) return;
    quietly(() => this.spread(packet, sent, opts));
  }

  spread(packet, sent, opts) {
    // Base has put the offset at the end of the data. It travels as the last part, where the hub can leave it out when
    // it compares messages.
    const recoverable = this.recovers && packet.type === 2 && packet.id === undefined && !opts.flags?.volatile;
    const id = recoverable ? packet.data[packet.data.length - 1] : undefined;
    if (id) this.sessionsOfHub?.said(packet.data, opts);
    const about = id && { nsp: this.nsp.name, id, rooms: [...opts.rooms], except: [...(opts.except ?? [])] };
    const header = { k: 'emit', n: this.nsp.name, o: plainOptions(opts), r: id && 1 };
    this.link.publish(pack(header, id ? [...sent, id] : sent), (id ? RECOVERABLE : 0) | BROADCAST, about);
  }

  broadcastWithAck(packet, opts, clientCount, ack) {
    const servers = 1 + this.link.peers.size;
    // Socket.IO compares the number of servers and of clients. Both are told when all have answered or are gone.
    const counted = (count) => {
      for (let n = 1; n < servers; n++) clientCount(0);
      clientCount(count);
    };
    if (opts.flags?.local || servers === 1) return super.broadcastWithAck(packet, opts, counted, ack);
    const sent = quietly(() => this.encode(packet));
    let expected = 0;
    super.broadcastWithAck(packet, opts, (count) => (expected = count), ack);
    const end = () => callOut(() => counted(expected));
    if (!sent) return end();
    const missing = new Map();
    const time = opts.flags?.timeout ?? PATIENCE;
    const answer = ({ header, parts }, peer) => {
      // The number of clients comes first, then each answer.
      const left = (missing.get(peer) ?? 0) + (header.c ?? -1);
      missing.set(peer, left);
      if (header.c === undefined) {
        const [, value] = this.decode(parts);
        expected++;
        callOut(() => ack(value));
      }
      return left > 0 ? 'more' : 'done';
    };
    const request = this.ask('ack', { o: plainOptions(opts) }, sent, { patience: time + 1000, answer, end });
    // A worker that hangs must not make the call fail, which ends with an error after `time`.
    request?.expectWithin(Math.min(PATIENCE, time * 0.8));
  }

  addSockets(opts, rooms) {
    super.addSockets(opts, rooms);
    this.tell('join', opts, { rooms });
  }

  delSockets(opts, rooms) {
    super.delSockets(opts, rooms);
    this.tell('leave', opts, { rooms });
  }

  disconnectSockets(opts, close) {
    super.disconnectSockets(opts, close);
    this.tell('disconnect', opts, { close });
  }

  async fetchSockets(opts) {
    const found = await super.fetchSockets(opts);
    if (opts.flags?.local) return found;
    const answer = ({ header }) => {
      for (const socket of header.s) found.push(socket);
    };
    return new Promise((end) => this.ask('fetch', { o: plainOptions(opts) }, [], { answer, end: () => end(found) }));
  }

  async sockets(rooms) {
    const ids = await super.sockets(rooms);
    const answer = ({ header }) => {
      for (const id of header.s) ids.add(id);
    };
    const about = { o: plainOptions({ rooms }) };
    return new Promise((end) => this.ask('ids', about, [], { answer, end: () => end(ids) }));
  }

  serverSideEmit(packet) {
    const ack = typeof packet[packet.length - 1] === 'function' ? packet[packet.length - 1] : null;
    const sent = quietly(() => this.encode({ type: 2, data: ack ? packet.slice(0, -1) : packet }));
    if (!ack) return void (sent && this.publish({ k: 'side', n: this.nsp.name }, sent));
    const answers = [];
    const answer = ({ parts }) => void answers.push(this.decode(parts)[1]);
    const end = () => callOut(() => ack(null, answers));
    if (sent) this.ask('side', {}, sent, { answer, end });
    else end();
  }

  persistSession(session) {
    super.persistSession(session);
    quietly(() => this.sessionsOfHub?.keep(session));
  }

  async restoreSession(pid, offset) {
    const fromHub = await this.sessionsOfHub?.restore(pid, offset).catch(() => null);
    return fromHub ?? super.restoreSession(pid, offset);
  }

  addAll(id, rooms) {
    if (this.link.closed) quietly(() => this.joins());
    this.sessionsOfHub?.changed(id);
    return super.addAll(id, rooms);
  }

  del(id, room) {
    this.sessionsOfHub?.changed(id);
    return super.del(id, room);
  }

  delAll(id) {
    quietly(() => this.sessionsOfHub?.gone(id));
    return super.delAll(id);
  }

  // What other workers ask of this one.

  handle(origin, { header, parts }) {
    const opts = header.o && { rooms: new Set(header.o.r), except: new Set(header.o.x), flags: header.o.f };
    const tell = (answer, sent) => this.link.tell(origin, pack(answer, sent));
    switch (header.k) {
      case 'emit': return this.deliver(header, parts, opts, tell);
      case 'ack': return this.deliverWithAck(header, this.packetOf(header, parts), opts, tell);
      case 'join': return super.addSockets(opts, header.rooms);
      case 'leave': return super.delSockets(opts, header.rooms);
      case 'disconnect': return super.disconnectSockets(opts, header.close);
      case 'fetch': return this.answerInParts(origin, header, this.matching(opts).map(describe), tell);
      case 'ids': return this.answerInParts(origin, header, this.matching(opts).map((socket) => socket.id), tell);
      case 'session': return this.tellSession(header, tell);
      case 'side': return this.deliverSide(header, this.decode(parts), tell);
    }
  }

  deliver(header, parts, opts, tell) {
    const id = header.r && parts.pop();
    // The hub counts the sockets that a message of the backend is for.
    if (header.q !== undefined) tell({ q: header.q, c: this.matching(opts).length });
    // Most messages to a room concern few workers.
    if (!this.reaches(opts) && !id) return;
    const packet = this.packetOf(header, parts);
    if (id) {
      packet.data.push(id);
      this.packets?.push({ id, opts, data: packet.data, emittedAt: Date.now() });
    }
    Plain.prototype.broadcast.call(this, packet, opts);
  }

  deliverWithAck({ q, d }, packet, opts, tell) {
    if (!packet || typeof super.broadcastWithAck !== 'function') return tell({ q, c: 0 });
    const answer = (value) =>
      quietly(() => (d ? tell({ q, a: value ?? null }) : tell({ q }, this.encode({ type: 2, data: ['answer', value] }))));
    super.broadcastWithAck(packet, opts, (c) => tell({ q, c }), answer);
    // Clients that never answer must not keep the callback for ever.
    const forget = () => this.nsp.sockets.forEach((socket) => socket.acks?.delete(packet.id));
    setTimeout(() => quietly(forget), (opts.flags?.timeout ?? PATIENCE) + 1000).unref();
  }

  /** The Engine.IO session of a socket, which the hub asks for. */
  tellSession({ q, id }, tell) {
    const sid = this.nsp.sockets.get(id)?.conn?.id;
    tell({ q, c: sid ? 1 : 0 });
    if (sid) tell({ q, a: sid });
  }

  deliverSide({ q }, data, tell) {
    if (q === undefined) return callOut(() => this.nsp._onServerSideEmit(data));
    let answered = false;
    const answer = (value) => {
      if (answered) return;
      answered = true;
      quietly(() => tell({ q }, this.encode({ type: 2, data: ['answer', value] })));
    };
    callOut(() => this.nsp._onServerSideEmit([...data, answer]));
  }

  /** Whether a socket here may be meant. */
  reaches({ rooms }) {
    if (!rooms.size) return this.sids.size > 0;
    for (const room of rooms) if (this.rooms.has(room)) return true;
    return false;
  }

  matching(opts) {
    const sockets = [];
    this.apply(opts, (socket) => sockets.push(socket));
    return sockets;
  }

  /** Sends a list in parts of `PART` bytes, each when the asker has read the one before it. */
  answerInParts(origin, { q }, list, tell) {
    const key = origin + q, answers = this.link.longAnswers;
    let at = 0;
    const next = () => {
      const part = [];
      for (let size = 0; at < list.length && size < PART; at++) {
        const text = typeof list[at] === 'string' ? JSON.stringify(list[at]) : list[at]();
        part.push(text);
        size += text.length;
      }
      const more = at < list.length;
      if (!more) answers.delete(key);
      this.link.tell(origin, packText(`{"q":${q},"more":${more},"s":[${part}]}`));
    };
    if (answers.size >= 1024) answers.delete(answers.keys().next().value);
    answers.set(key, next);
    next();
  }

  // Parts of the above.

  tell(k, opts, about) {
    if (!opts.flags?.local) this.publish({ k, n: this.nsp.name, o: plainOptions(opts), ...about });
  }

  publish(header, parts = []) {
    return quietly(() => this.link.publish(pack(header, parts), 0));
  }

  /** Publishes a request, if there is a peer to answer it. `answer` sees each answer, `end` is called once. Returns the
   * request, if it was sent. */
  ask(k, about, parts, { patience, answer, end }) {
    if (!this.link.live || !this.link.peers.size) return end();
    const each = (reply, peer) => {
      const outcome = answer(reply, peer);
      if (!reply.header.more) return outcome;
      this.link.tell(peer, pack({ k: 'next', q: reply.header.q }));
      return 'more';
    };
    const request = this.link.ask({ patience, answer: each, end });
    if (this.publish({ k, n: this.nsp.name, q: request.id, ...about }, parts)) return request;
    request.end();
  }

  /** The packet in the application's own encoding: other workers read exactly what a client would read. */
  encode(packet) {
    return this.encoder.encode({ ...packet, nsp: this.nsp.name });
  }

  /** The packet of a message. Those of the backend are in the header, because the hub knows no parser. */
  packetOf(header, parts) {
    return header.d ? { type: 2, data: header.d } : this.decode(parts, true);
  }

  /** Reads a packet; returns its data, or all of it. */
  decode(parts, whole) {
    const decoder = new this.nsp.server._parser.Decoder({ maxAttachments: Infinity });
    let packet;
    decoder.on('decoded', (decoded) => (packet = decoded));
    for (const part of parts) decoder.add(part);
    decoder.destroy?.();
    // Old parsers keep the types of binary packets, and would not encode these again.
    if (packet?.type > 4) packet.type -= 3;
    return whole ? packet : packet.data;
  }
};

const plainOptions = ({ rooms, except, flags }) => ({ r: [...(rooms ?? [])], x: [...(except ?? [])], f: flags });

/** What `fetchSockets` tells about a socket of another worker, as text, when its part of the answer is written. */
const describe = (socket) => () => {
  const about = { id: socket.id, handshake: socket.handshake, rooms: [...socket.rooms], data: socket.data };
  // Data that is not JSON (a cycle, a BigInt) is left out; the socket itself is not.
  return quietly(() => JSON.stringify(about)) ?? JSON.stringify({ ...about, handshake: {}, data: {} });
};

function packText(text) {
  const bytes = Buffer.from(text), head = Buffer.alloc(5);
  head.writeUInt32BE(bytes.length, 0);
  return Buffer.concat([head, bytes]);
}
