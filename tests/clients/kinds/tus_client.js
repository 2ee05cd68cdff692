// Real tus-js-clients; `piece`: bytes of a PATCH. A session is an upload; asking for its worker pauses it after another
// piece: the next one resumes it (HEAD, PATCH).
'use strict';
const tus = require('tus-js-client');
const { Session, run } = require('../lib/kind');

let bytes; // the same for all: of large pieces they would fill the memory

class TusSession extends Session {
  constructor(...args) {
    super(...args);
    const { piece = 1000 } = this.options;
    let created = 0;
    bytes ||= Buffer.alloc(piece * 20, 'x');
    this.upload = new tus.Upload(bytes, {
      endpoint: `${this.url}/files`,
      chunkSize: piece,
      retryDelays: null,
      // An upload that its server does not know any more, the library begins anew: it is lost all the same.
      onBeforeRequest: (req) => req.getMethod() === 'POST' && created++ && this.ended('created anew'),
      onAfterResponse: (_, res) => (this.from = res.getHeader('x-worker')),
      onError: (error) => this.ended(error.originalResponse ? `${error.originalRequest.getMethod()} ${error.originalResponse.getStatus()}` : error.message),
      // At once: the next piece would be on its way.
      onChunkComplete: () => this.upload.abort().then(() => this.stored()),
    });
  }
  open() {
    return this.ask();
  }
  async ask() {
    const stored = new Promise((resolve) => (this.stored = resolve));
    this.upload.start();
    await stored;
    return this.from;
  }
  close() {
    return this.upload.abort(true); // DELETE
  }
}

run(TusSession);
