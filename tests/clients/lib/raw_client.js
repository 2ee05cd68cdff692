// A hand-written Socket.IO client on raw polling (raw.js), as one client of a run. Two ways of life:
//   flow  as a real client: a poll always open, POSTs beside it
//   step  POST, then GET only while an answer is owed: never blocks, so that many sids can share one keep-alive connection
// Both can hold still with no request open, and go on later with the same sid.
'use strict';
const { RawSession } = require('../raw');
const { Echoes } = require('./tally');

class RawClient {
  constructor(i, options, { url, agent, tls }, tally) {
    Object.assign(this, { i, options, tally, worker: null, ever: false, echoes: new Echoes(), toSend: 0, transport: 'polling' });
    Object.assign(this, { connected: false, held: false, holding: false, stopped: false, since: Date.now() });
    this.flow = (options.mode || 'flow') === 'flow' && !options.sharedAgent;
    this.engineVersion = Number(options.version || 4) >= 3 ? 4 : 3;
    this.sessionOptions = {
      version: this.engineVersion,
      path: options.path,
      jsonp: options.transports === 'jsonp',
      binary: options.binary,
      headers: options.extraHeaders,
      tls: agent ? {} : tls, // an agent carries them itself
      route: () => ({ url, agent }),
    };
    this.live();
  }

  get sid() {
    return this.session?.sid;
  }
  get idle() {
    return this.toSend === 0;
  }

  /** Session after session, as a client that reconnects. */
  async live() {
    while (!this.stopped) {
      try {
        await this.oneSession();
      } catch (error) {
        if (this.stopped) return;
        const reason = error.refused ? 'refused' : error.code || error.message;
        this.since = this.connected ? Date.now() : this.since;
        const wasConnected = this.connected;
        this.connected = false;
        this.worker = null;
        this.session?.abort();
        if (wasConnected) this.tally.disconnected(this, reason);
        else this.tally.connectError(this, reason);
        await new Promise((resolve) => setTimeout(resolve, 200)); // the io clients' delay here
      }
    }
  }

  async oneSession() {
    const session = (this.session = new RawSession(this.sessionOptions));
    Object.assign(this, { out: [], owed: 1, polling: false, posting: false, asked: false }); // owed: the `40`
    const { pingInterval } = await session.handshake();
    if (this.engineVersion === 4) this.out.push('40');
    // Engine.IO 3: the client pings. Only where polls are open anyway; a stepping session lives its 45 s and more.
    const ping = this.engineVersion === 3 && this.flow && setInterval(() => this.holding || this.queue('2'), pingInterval);
    try {
      await new Promise((resolve, reject) => {
        this.fail = reject;
        this.turn();
      });
    } finally {
      clearInterval(ping);
      clearTimeout(this.timer);
      this.fail = null;
    }
  }

  /** Starts whatever may be started now: at most one POST and one GET at a time, none when told to hold. */
  turn() {
    if (!this.fail) return; // between two sessions
    if (this.out.length && !this.posting) this.work('posting', () => this.session.post(this.out.splice(0)));
    const mayPoll = this.flow ? !this.holding || this.owed > 0 : this.owed > 0 && !this.posting;
    if (mayPoll && !this.polling) this.work('polling', async () => this.take(await this.session.poll()));
    // An open poll ends when there is something to say: ask for it once.
    if (this.holding && this.polling && !this.owed && !this.asked) {
      this.asked = true;
      return this.queue('420["whoami"]', true);
    }
    this.held = this.holding && this.connected && !this.polling && !this.posting && !this.out.length;
    this.tally.check();
  }

  async work(flag, job) {
    this[flag] = true;
    const session = this.session;
    try {
      await job();
    } catch (error) {
      if (session === this.session && this.fail) this.fail(error);
      return;
    } finally {
      if (session === this.session) this[flag] = false;
    }
    if (session === this.session) this.turn();
  }

  queue(packet, answered = false) {
    this.out.push(packet);
    if (answered) this.owed++;
    this.turn();
  }

  take(packets) {
    for (const packet of packets) {
      if (packet === '2') this.out.push('3'); // the next turn posts it
      else if (packet === '1' || packet.startsWith('41')) throw new Error('closed by the server');
      else if (packet.startsWith('44')) throw new Error(`connect error ${packet.slice(2)}`);
      else if (packet.startsWith('40')) this.onConnect();
      else if (packet.startsWith('42') || packet.startsWith('43')) this.onAnswer(packet);
    }
  }

  onConnect() {
    this.owed--;
    const again = this.ever;
    this.connected = this.ever = true;
    this.echoes.anew();
    this.out.push('420["whoami"]');
    this.owed++;
    this.tally.connected(this, Date.now() - this.since, again);
    this.pump();
  }

  onAnswer(packet) {
    this.owed--;
    if (packet.startsWith('43')) {
      this.worker = JSON.parse(packet.replace(/^43\d+/, ''))[0];
    } else {
      const [, n, worker] = JSON.parse(packet.slice(2));
      this.worker = worker;
      this.echoes.seen(n, worker);
    }
    this.tally.check();
  }

  send(count) {
    this.toSend = count;
    this.echoes.newBatch();
    this.pump();
  }

  pump() {
    clearTimeout(this.timer);
    if (!this.connected || this.holding) return;
    while (this.toSend > 0) {
      this.toSend--;
      this.queue(`42["n",${this.echoes.next()}]`, true);
      const pause = this.options.interval || (this.toSend === Infinity ? 20 : 0);
      if (pause && this.toSend > 0) return void (this.timer = setTimeout(() => this.pump(), pause));
    }
  }

  hold() {
    this.holding = true;
    this.asked = false;
    clearTimeout(this.timer);
    this.turn();
  }
  go() {
    this.holding = this.held = false;
    this.turn();
    this.pump();
  }

  stop() {
    this.stopped = true;
    this.fail = null; // no turn after this
    clearTimeout(this.timer);
    // The sid's last word goes out while its poll is open, as real clients do it.
    return this.connected && !this.posting ? this.session.close().catch(() => {}) : undefined;
  }
}

module.exports = { RawClient };
