// Real sockjs-clients: `transports` as the library names them.
'use strict';
const SockJS = require('sockjs-client');
const { Session, run } = require('../lib/kind');

class SockJsSession extends Session {
  open() {
    const socket = (this.socket = new SockJS(`${this.url}/echo`, null, { transports: this.options.transports || ['xhr-polling'], timeout: 20000 }));
    socket.onclose = (event) => this.ended(`closed ${event.code} ${event.reason}`);
    socket.onmessage = ({ data }) => this.answered?.(JSON.parse(data));
    return new Promise((resolve) => (socket.onopen = resolve));
  }
  ask() {
    const text = `${this.i}-${this.asked}`;
    return new Promise((resolve) => {
      this.answered = (answer) => answer.text === text && resolve(answer.worker);
      this.socket.send(text);
    });
  }
  close() {
    this.socket.close();
  }
}

run(SockJsSession);
