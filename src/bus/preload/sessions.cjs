
// Sessions of clients, kept in the hub for connection state recovery.

/** Milliseconds in which changes of rooms are gathered before the hub is told about a session. */
const GATHER = 100;
/** Maximum number of own messages that are kept while questions are open. */
const MOST_HEARD = 10_000;

/** Whether a message to these rooms is for a socket that is in `own`. */
function isFor(own, { rooms, except }) {
  return (!rooms.size || own.some((room) => rooms.has(room))) && !own.some((room) => except?.has(room));
}

/** Tells the hub the sessions of this process, so that a client can recover after the process has died. */
class HubSessions {
  constructor(adapter) {
    Object.assign(this, { adapter, dirty: new Set(), told: new Map(), timer: null, restoring: 0, heard: [], first: 0 });
    this.sweep = setInterval(() => quietly(() => this.all(true)), REPORT).unref();
  }

  changed(id) {
    this.dirty.add(id);
    this.timer ??= setTimeout(() => quietly(() => this.flush()), GATHER).unref();
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

  /** A message of this worker itself. Questions that are open need it: the hub has it after its answer, and does not
   * send it back. If there are too many, those questions find nothing, and their clients begin anew. */
  said(data, opts) {
    if (!this.restoring) return;
    if (this.heard.length >= MOST_HEARD) this.forget();
    this.heard.push({ data, opts });
  }

  forget() {
    this.first += this.heard.length;
    this.heard = [];
  }

  async restore(pid, offset) {
    const { link, nsp } = this.adapter;
    if (!link.live) return null;
    let found = null;
    const from = this.first + this.heard.length;
    this.restoring += 1;
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
    this.restoring -= 1;
    const meanwhile = from < this.first ? null : this.heard.slice(from - this.first);
    if (!this.restoring) this.forget();
    if (!found || !meanwhile) return null;
    found.missedPackets.push(...meanwhile.filter(({ opts }) => isFor(found.rooms, opts)).map(({ data }) => data));
    return found;
  }

  stop() {
    clearInterval(this.sweep);
    clearTimeout(this.timer);
  }
}
