// Real Phoenix clients on long polling.
'use strict';
const { Socket, LongPoll } = require('phoenix');
const { Session, run } = require('../lib/kind');

class PhoenixSession extends Session {
  open() {
    const socket = (this.socket = new Socket(`${this.url}/socket`, { transport: LongPoll, longpollerTimeout: 20000, timeout: 20000 }));
    // It would connect anew by itself: the session is lost all the same.
    socket.onClose(({ code, reason }) => this.ended(`closed ${code} ${reason}`));
    socket.onError((error) => this.ended(`error ${error?.message || error}`));
    socket.connect();
    this.channel = socket.channel(`room:${this.i}`);
    return reply(this.channel.join());
  }
  async ask() {
    return (await reply(this.channel.push('whoami', {}))).worker;
  }
  close() {
    this.socket.disconnect();
  }
}

const reply = (push) =>
  new Promise((resolve, reject) => {
    push.receive('ok', resolve);
    push.receive('error', (error) => reject(new Error(JSON.stringify(error))));
    push.receive('timeout', () => reject(new Error('no reply')));
  });

run(PhoenixSession);
