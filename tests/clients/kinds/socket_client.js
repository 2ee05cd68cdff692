// Real socket.io-clients whose application also asks by HTTP, saying which socket is its own, and has to reach that
// socket's worker. Nothing is compressed: what is, no proxy reads in passing. `id`: "socket" (Socket.IO's own) or
// "engine" (Engine.IO's sid); `where`: "header" or "query"; `namespace`; `transports`.
'use strict';
const { io } = require('socket.io-client');
const { Session, run } = require('../lib/kind');

class SocketSession extends Session {
  open() {
    const { namespace = '/', transports = ['polling'] } = this.options;
    const socket = (this.socket = io(this.url + namespace, { transports, forceNew: true, reconnection: false, perMessageDeflate: false }));
    socket.on('disconnect', (reason) => this.ended(reason));
    return new Promise((resolve, reject) => {
      socket.on('connect', resolve);
      socket.on('connect_error', reject);
    });
  }
  async ask() {
    const owner = await this.socket.timeout(20000).emitWithAck('whoami');
    const id = this.options.id === 'engine' ? this.socket.io.engine.id : this.socket.id;
    const header = this.options.where !== 'query';
    const url = `${this.url}/socket${header ? '' : `?socketId=${encodeURIComponent(id)}`}`;
    const answer = await fetch(url, { method: 'POST', headers: header ? { 'x-socket-id': id } : {}, body: 'x' });
    const { worker, has } = await answer.json();
    if (!has || worker !== owner) throw new Error(`at another worker than its socket: ${answer.status}`);
    return worker;
  }
  close() {
    this.socket.disconnect();
  }
}

run(SocketSession);
