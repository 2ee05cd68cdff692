// Real CometD clients on long polling. They need their cookies (`cookies: true`) and a host each (`hosts: true`): one
// cookie is one browser, and the server serves one session of a browser at a time.
'use strict';
const { Session, run } = require('../lib/kind');

class CometdSession extends Session {
  async open() {
    // Both libraries are ES modules only, and each module has one cookie jar.
    const [{ CometD }, { adapt }] = await Promise.all([import('cometd'), import('cometd-nodejs-client')]);
    if (!globalThis.window?.XMLHttpRequest) adapt();
    const bayeux = (this.bayeux = new CometD());
    bayeux.configure({ url: `${this.url}/cometd`, logLevel: 'warn', maxNetworkDelay: 20000 });
    bayeux._debug = bayeux._info = bayeux._warn = () => {};
    bayeux.unregisterTransport('websocket');
    let handshakes = 0;
    bayeux.addListener('/meta/handshake', () => handshakes++ && this.ended('shook hands anew'));
    bayeux.addListener('/meta/unsuccessful', ({ error, failure }) => this.ended(error || failure?.reason || 'unsuccessful'));
    bayeux.addListener('/service/who', ({ data }) => this.answered?.(data));
    await new Promise((resolve, reject) => {
      bayeux.handshake((reply) => (reply.successful ? resolve() : reject(new Error(reply.error || 'no handshake'))));
    });
  }
  ask() {
    const number = this.asked;
    return new Promise((resolve) => {
      this.answered = (data) => data.number === number && resolve(data.worker);
      this.bayeux.publish('/service/who', { number });
    });
  }
  close() {
    return new Promise((resolve) => this.bayeux.disconnect(resolve));
  }
}

run(CometdSession);
