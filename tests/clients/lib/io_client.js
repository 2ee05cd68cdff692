// A real socket.io-client, 4.8 or 2.5, as one client of a run.
'use strict';
const { Echoes } = require('./tally');
const LIBRARIES = { 4: 'socket.io-client', 2: 'socket.io-client-2' };

class IoClient {
  constructor(i, options, { url, agent, tls }, tally) {
    Object.assign(this, { i, tally, worker: null, ever: false, held: false, echoes: new Echoes(), toSend: 0 });
    this.interval = options.interval || 0;
    const io = require(LIBRARIES[options.version || 4]);
    this.since = Date.now();
    const socket = (this.socket = io(url, {
      forceNew: true,
      path: options.path || '/socket.io/',
      reconnectionDelay: 200, // the default is 1 s: tests would wait for nothing
      reconnectionDelayMax: 1000,
      ...(Array.isArray(options.transports) && { transports: options.transports }),
      ...(agent && { agent }),
      ...(options.extraHeaders && { extraHeaders: options.extraHeaders }),
      ...tls,
      ...options.io,
    }));
    socket.on('connect', () => this.onConnect());
    socket.on('disconnect', (reason) => {
      if (!this.up) return; // 4.8 tells it of attempts that never connected, too
      this.up = false;
      this.since = Date.now();
      this.worker = null;
      tally.disconnected(this, reason);
    });
    // The first words are the transport's ("xhr poll error"); the status, where there is one, says more.
    socket.on('connect_error', (e) => {
      const status = e.context?.status ?? e.description?.status ?? e.description;
      tally.connectError(this, typeof status === 'number' ? `${e.message} ${status}` : e.message);
    });
    // Before its probes begin: an upgrade may fail before Socket.IO has connected.
    this.stays = false; // on the transport it has
    socket.io.on('open', () => {
      const offered = this.engine._upgrades ?? this.engine.upgrades ?? [];
      this.stays = offered.length === 0 || (this.engine.opts?.upgrade ?? this.engine.upgrade) === false;
      this.engine.on('upgrade', () => this.tally.emit('upgrade', { client: this.i }) || this.tally.check());
      this.engine.on('upgradeError', (e) => {
        this.stays = true;
        this.tally.upgradeError(this, e.message);
      });
    });
    if (options.listen) socket.on(options.listen, (...args) => tally.emit('heard', { client: i, args }));
    socket.on('n', (n, worker) => {
      this.worker = worker;
      this.echoes.seen(n, worker);
      tally.check();
    });
  }

  get connected() {
    return this.socket.connected;
  }
  get engine() {
    return this.socket.io.engine;
  }
  get transport() {
    return this.engine?.transport?.name;
  }
  get sid() {
    return this.engine?.id;
  }
  get idle() {
    return this.toSend === 0;
  }

  onConnect() {
    const again = this.ever;
    this.ever = this.up = true;
    this.echoes.anew();
    this.socket.emit('whoami', (worker) => (this.worker = worker));
    this.tally.connected(this, Date.now() - this.since, again);
    this.pump();
  }

  /** `count` more messages, or Infinity; nothing is sent into a broken connection, so nothing is buffered there. */
  send(count) {
    this.toSend = count;
    this.echoes.newBatch();
    this.pump();
  }

  pump() {
    clearTimeout(this.timer);
    if (!this.connected) return;
    while (this.toSend > 0) {
      this.toSend--;
      this.socket.emit('n', this.echoes.next());
      // An endless sender without an interval would never yield.
      const pause = this.interval || (this.toSend === Infinity ? 20 : 0);
      if (pause && this.toSend > 0) return void (this.timer = setTimeout(() => this.pump(), pause));
    }
  }

  hold() {
    throw new Error('a real client cannot hold still: use kind "raw"');
  }

  /** As a user who leaves; over when the goodbye has been answered. A WebSocket's is its process's end, too. */
  async stop() {
    clearTimeout(this.timer);
    const engine = this.engine;
    const open = ['opening', 'open'].includes(engine?.readyState);
    // Socket.IO sends its goodbye first, in a POST of its own; then the engine closes.
    const closed = open && new Promise((resolve) => engine.once('close', resolve));
    this.socket.removeAllListeners?.();
    this.socket.close();
    if (!closed) return;
    await closed;
    const transport = engine.transport;
    if (transport.name === 'polling') await new Promise((resolve) => transport.once('drain', resolve));
  }
}

module.exports = { IoClient };
