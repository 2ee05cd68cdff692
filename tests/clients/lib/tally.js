// What one run of clients has seen, and the events a test may wait for.
'use strict';

/** The messages of one client: which were sent, which came back, and in what order. */
class Echoes {
  constructor() {
    Object.assign(this, { moved: 0, worker: null });
    Object.assign(this, { sent: 0, ok: 0, duplicated: 0, reordered: 0, highest: -1, back: new Set(), batch: 0, missing: 0 });
  }
  /** → the number of the next message. */
  next() {
    this.missing++;
    return this.sent++;
  }
  /** A new session: any worker's. */
  anew() {
    this.worker = null;
  }
  seen(i, worker) {
    if (this.worker && this.worker !== worker) this.moved++;
    this.worker = worker;
    if (this.back.has(i)) return void this.duplicated++;
    this.back.add(i);
    this.ok++;
    if (i >= this.batch) this.missing--;
    if (i < this.highest) this.reordered++;
    else this.highest = i;
  }
  /** From now on only later messages count for `whole`: what a restart has lost stays lost. */
  newBatch() {
    this.batch = this.sent;
    this.missing = 0;
  }
  whole() {
    return this.missing === 0;
  }
}

class Tally {
  constructor({ n, emit }) {
    Object.assign(this, { n, emit, clients: [], reached: {} });
    Object.assign(this, { connect_errors: {}, upgrade_errors: {}, disconnects: {}, reconnects: 0 });
    this.connectTimes = [];
    this.reconnectTimes = [];
  }

  // Called by the clients. A client has: i, connected, transport, sid, worker, echoes, idle (nothing left to send),
  // held.
  connected(client, ms, again) {
    (again ? this.reconnectTimes : this.connectTimes).push(ms);
    if (again) this.reconnects++;
    this.emit('connect', { client: client.i, sid: client.sid, again });
    this.check();
  }
  disconnected(client, reason) {
    count(this.disconnects, reason);
    this.emit('disconnect', { client: client.i, reason });
    this.check();
  }
  connectError(client, message) {
    count(this.connect_errors, message);
    this.emit('connect-error', { client: client.i, message });
  }
  upgradeError(client, message) {
    count(this.upgrade_errors, message);
    this.emit('upgrade-error', { client: client.i, message });
    this.check();
  }

  /** Tells each state the moment all clients are in it, and again when they have left it and come back. */
  check() {
    const all = (test) => this.clients.length === this.n && this.clients.every(test);
    this.edge('all-connected', all((c) => c.connected));
    this.edge('all-upgraded', all((c) => c.connected && c.transport === 'websocket'));
    this.edge('all-echoed', all((c) => c.idle && c.echoes.sent > 0 && c.echoes.whole()));
    this.edge('all-held', all((c) => c.held));
    this.edge('all-disconnected', all((c) => !c.connected && c.ever));
  }
  edge(name, now) {
    const before = this.reached[name];
    this.reached[name] = now;
    if (now && !before) this.emit(name, {});
  }
  /** Lets `name` be told again although it still holds. */
  rearm(name) {
    this.reached[name] = false;
  }

  result(seen) {
    const sum = (field) => this.clients.reduce((total, c) => total + c.echoes[field], 0);
    const live = this.clients.filter((c) => c.connected);
    const by = (field) => live.reduce((counts, c) => (count(counts, c[field] || 'unknown'), counts), {});
    const [sent, ok] = [sum('sent'), sum('ok')];
    return {
      clients: this.n,
      connected: live.length,
      ever_connected: this.clients.filter((c) => c.ever).length,
      upgraded: live.filter((c) => c.transport === 'websocket').length,
      transports: by('transport'),
      workers: by('worker'), // live sessions by the name their worker gave
      echoes: { sent, ok, lost: sent - ok, duplicated: sum('duplicated'), reordered: sum('reordered') },
      moved: sum('moved'), // echoes from another worker than the one before, in one session
      reconnects: this.reconnects,
      connect_errors: this.connect_errors,
      upgrade_errors: this.upgrade_errors,
      disconnects: this.disconnects,
      refusals: { ...seen.refusals, total: seen.refusals.polling + seen.refusals.websocket },
      answers: seen.answers,
      bad_answers: seen.bad_answers,
      connect_ms: spreadOf(this.connectTimes),
      reconnect_ms: spreadOf(this.reconnectTimes),
    };
  }
}

const count = (counts, key) => (counts[key] = (counts[key] || 0) + 1);

function spreadOf(times) {
  if (!times.length) return null;
  const sorted = [...times].sort((a, b) => a - b);
  return { median: sorted[sorted.length >> 1], max: sorted[sorted.length - 1] };
}

module.exports = { Tally, Echoes };
