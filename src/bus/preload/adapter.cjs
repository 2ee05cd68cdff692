
// --- the adapter --------------------------------------------------------------------------------------------------

/** Bytes of a part of a long answer; the asker asks for the next part. */
const PART = 256 * 1024;
/** Milliseconds in which changes of rooms are gathered before the hub is told about a session. */
const GATHER = 100;

/** Makes Socket.IO's own two default adapters the ones of this file; all others stay. */
function replaceAdapter(Server, file) {
  // The package does not export its package.json.
  const about = require('node:path').join(file, '../../package.json');
  const { version } = JSON.parse(require('node:fs').readFileSync(about, 'utf8'));
  if (Number(version.split('.')[0]) < 4) return;
  const { Adapter, SessionAwareAdapter } = Module.createRequire(file)('socket.io-adapter');
  const original = Server.prototype.adapter;
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
    return arguments.length ? original.call(this, replaced.get(adapter) ?? adapter) : original.call(this);
  };
}

/** The adapter that reaches other workers: `Base` locally, with `Plain` as the class that all adapters extend. */
const busAdapter = (Base, Plain) => class BusAdapter extends Base {
  constructor(namespace, link) {
    super(namespace);
    this.link = link;
    link.adapters.set(namespace.name, this);
    this.recovers = Base !== Plain;
    if (this.recovers) this.sessionsOfHub = new HubSessions(this);
  }

  close() {
    this.sessionsOfHub?.stop();
    this.link.adapters.delete(this.nsp.name);
    if (!this.link.adapters.size) this.link.close();
    return super.close?.();
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
    // Base has put the offset at the end of the data. It travels as the last part, where the hub can leave it out when
    // it compares messages.
    const recoverable = this.recovers && packet.type === 2 && packet.id === undefined && !opts.flags?.volatile;
    const id = recoverable ? packet.data[packet.data.length - 1] : undefined;
    const about = id && { nsp: this.nsp.name, id, rooms: [...opts.rooms], except: [...(opts.except ?? [])] };
    const header = { k: 'emit', n: this.nsp.name, o: plainOptions(opts), r: id && 1 };
    const payload = pack(header, id ? [...sent, id] : sent);
    quietly(() => this.link.publish(payload, (id ? RECOVERABLE : 0) | BROADCAST, about));
  }

  broadcastWithAck(packet, opts, clientCount, ack) {
    const servers = 1 + this.link.peers.size;
    if (opts.flags?.local || servers === 1) return super.broadcastWithAck(packet, opts, clientCount, ack);
    const sent = quietly(() => this.encode(packet));
    let expected = 0;
    super.broadcastWithAck(packet, opts, (count) => (expected = count), ack);
    const missing = new Map();
    // Socket.IO compares the number of servers and of clients; both are told when all have answered or are gone.
    const end = () => {
      for (let n = 1; n < servers; n++) clientCount(0);
      clientCount(expected);
    };
    const patience = (opts.flags?.timeout ?? PATIENCE) + 1000;
    this.ask('ack', { o: plainOptions(opts) }, sent ?? [], { patience, end, answer: ({ header, parts }, peer) => {
      const left = (missing.get(peer) ?? 0) + (header.c ?? -1);
      missing.set(peer, left);
      if (header.c === undefined) {
        expected++;
        ack(this.decode(parts)[1]);
      }
      return left > 0 ? 'more' : 'done';
    } });
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
    const sent = quietly(() => this.encode({ type: 2, data: ack ? packet.slice(0, -1) : packet })) ?? [];
    if (!ack) return this.publish({ k: 'side', n: this.nsp.name }, sent);
    const answers = [];
    const answer = ({ parts }) => void answers.push(this.decode(parts)[1]);
    this.ask('side', {}, sent, { answer, end: () => ack(null, answers) });
  }

  persistSession(session) {
    super.persistSession(session);
    this.sessionsOfHub?.keep(session);
  }

  async restoreSession(pid, offset) {
    const fromHub = await this.sessionsOfHub?.restore(pid, offset);
    return fromHub ?? super.restoreSession(pid, offset);
  }

  addAll(id, rooms) {
    this.sessionsOfHub?.changed(id);
    return super.addAll(id, rooms);
  }

  del(id, room) {
    this.sessionsOfHub?.changed(id);
    return super.del(id, room);
  }

  delAll(id) {
    this.sessionsOfHub?.gone(id);
    return super.delAll(id);
  }

  // What other workers ask of this one.

  handle(origin, { header, parts }) {
    const opts = header.o && { rooms: new Set(header.o.r), except: new Set(header.o.x), flags: header.o.f };
    const tell = (answer, sent) => this.link.send(TO_HUB.direct, Buffer.from(origin, 'hex'), pack(answer, sent));
    switch (header.k) {
      case 'emit': return this.deliver(header.r && parts.pop(), this.decode(parts, true), opts);
      case 'ack': return this.deliverWithAck(header, this.decode(parts, true), opts, tell);
      case 'join': return super.addSockets(opts, header.rooms);
      case 'leave': return super.delSockets(opts, header.rooms);
      case 'disconnect': return super.disconnectSockets(opts, header.close);
      case 'fetch': return this.answerInParts(origin, header, this.matching(opts).map(describe), tell);
      case 'ids': return this.answerInParts(origin, header, this.matching(opts).map((socket) => socket.id), tell);
      case 'side': return this.deliverSide(header, this.decode(parts), tell);
    }
  }

  deliver(id, packet, opts) {
    if (id) {
      packet.data.push(id);
      this.packets?.push({ id, opts, data: packet.data, emittedAt: Date.now() });
    }
    Plain.prototype.broadcast.call(this, packet, opts);
  }

  deliverWithAck({ q }, packet, opts, tell) {
    if (!packet || typeof super.broadcastWithAck !== 'function') return tell({ q, c: 0 });
    const answer = (value) => quietly(() => tell({ q }, this.encode({ type: 2, data: ['answer', value] })));
    super.broadcastWithAck(packet, opts, (c) => tell({ q, c }), answer);
    // Clients that never answer must not keep the callback for ever.
    const forget = () => this.nsp.sockets.forEach((socket) => socket.acks?.delete(packet.id));
    setTimeout(forget, (opts.flags?.timeout ?? PATIENCE) + 1000).unref();
  }

  deliverSide({ q }, data, tell) {
    if (q === undefined) return this.nsp._onServerSideEmit(data);
    let answered = false;
    this.nsp._onServerSideEmit([...data, (value) => {
      if (answered) return;
      answered = true;
      quietly(() => tell({ q }, this.encode({ type: 2, data: ['answer', value] })));
    }]);
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
      this.link.send(TO_HUB.direct, Buffer.from(origin, 'hex'), packText(`{"q":${q},"more":${more},"s":[${part}]}`));
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
    quietly(() => this.link.publish(pack(header, parts), 0));
  }

  /** Publishes a request, if there is a peer to answer it. `answer` sees each answer, `end` is called once. */
  ask(k, about, parts, { patience, answer, end }) {
    if (!this.link.live || !this.link.peers.size) return end();
    const each = (reply, peer) => {
      const outcome = answer(reply, peer);
      if (!reply.header.more) return outcome;
      this.link.send(TO_HUB.direct, Buffer.from(peer, 'hex'), pack({ k: 'next', q: reply.header.q }));
      return 'more';
    };
    const request = this.link.ask({ patience, answer: each, end });
    this.publish({ k, n: this.nsp.name, q: request.id, ...about }, parts);
  }

  /** The packet in the application's own encoding: other workers read exactly what a client would read. */
  encode(packet) {
    return this.encoder.encode({ ...packet, nsp: this.nsp.name });
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

/** Tells the hub the sessions of this process, so that a client can recover after the process has died. */
class HubSessions {
  constructor(adapter) {
    Object.assign(this, { adapter, dirty: new Set(), told: new Map(), timer: null });
    this.sweep = setInterval(() => this.all(true), REPORT).unref();
  }

  changed(id) {
    this.dirty.add(id);
    this.timer ??= setTimeout(() => this.flush(), GATHER).unref();
  }

  /** Tells all sessions, or those whose data has changed. */
  all(changedOnly) {
    for (const [id, socket] of this.adapter.nsp.sockets) {
      if (!changedOnly || Object.keys(socket.data ?? {}).length) this.dirty.add(id);
    }
    if (!changedOnly) this.told.clear();
    this.flush();
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.adapter.link.live) return;
    for (const id of this.dirty) {
      const socket = this.adapter.nsp.sockets.get(id);
      if (socket?.pid) this.say({ sid: id, pid: socket.pid, rooms: [...socket.rooms], data: socket.data }, false);
    }
    this.dirty.clear();
  }

  say(session, ended) {
    quietly(() => {
      const text = JSON.stringify({ nsp: this.adapter.nsp.name, ended, ...session });
      if (!ended && this.told.get(session.sid) === text) return;
      this.told.set(session.sid, text);
      this.adapter.link.send(TO_HUB.session, Buffer.from(text));
    });
  }

  /** The socket was lost in a way after which its client may recover. */
  keep(session) {
    this.dirty.delete(session.sid);
    this.say(session, true);
    this.told.delete(session.sid);
  }

  /** The socket left; unless `keep` was called before, its session has ended for good. */
  gone(id) {
    this.dirty.delete(id);
    if (!this.told.delete(id)) return;
    const pid = this.adapter.nsp.sockets.get(id)?.pid;
    if (pid) this.adapter.link.send(TO_HUB.session, json({ nsp: this.adapter.nsp.name, pid, dropped: true }));
  }

  async restore(pid, offset) {
    const { link, nsp } = this.adapter;
    if (!link.live) return null;
    let found = null;
    await new Promise((end) => {
      const answer = ({ header, body }) => {
        if (!header.session) return;
        const missedPackets = [];
        for (let at = 0; at < body.length;) {
          const length = body.readUInt32BE(at);
          const { parts } = unpack(body.subarray(at + 4, at + 4 + length));
          const id = parts.pop();
          missedPackets.push([...this.adapter.decode(parts), id]);
          at += 4 + length;
        }
        const { sid, rooms, data } = header.session;
        found = { sid, pid, rooms, data: data ?? {}, missedPackets };
      };
      const request = link.ask({ peers: ['hub'], patience: 2000, answer, end });
      link.send(TO_HUB.restore, json({ request: request.id, nsp: nsp.name, pid, offset }));
    });
    return found;
  }

  stop() {
    clearInterval(this.sweep);
    clearTimeout(this.timer);
  }
}

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
