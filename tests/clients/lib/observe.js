// Sees every answer of every http request of this process, whichever library sent it: what a client hides (a refused
// upgrade is silent, a refused poll is "xhr poll error") is still counted.
'use strict';
const http = require('http');
const { isRefusal } = require('../raw');

const seen = {
  refusals: { polling: 0, websocket: 0 }, // "Session ID unknown" in any server's words
  answers: {}, // by "METHOD status", WS = upgrade
  bad_answers: {}, // not 200/101, by "METHOD status body", cut at 80 characters
};

function note(method, status, body) {
  if (isRefusal(status, body)) seen.refusals[method === 'WS' ? 'websocket' : 'polling']++;
  add(seen.bad_answers, `${method} ${status} ${body.slice(0, 80)}`);
}

const add = (counts, key) => (counts[key] = (counts[key] || 0) + 1);

const emit = http.ClientRequest.prototype.emit;
http.ClientRequest.prototype.emit = function (event, res, ...rest) {
  if (event === 'upgrade') add(seen.answers, `WS ${res.statusCode}`);
  if (event !== 'response') return emit.call(this, event, res, ...rest);

  const method = this.getHeader('upgrade') ? 'WS' : this.method;
  add(seen.answers, `${method} ${res.statusCode}`);
  if (res.statusCode === 200 && method !== 'WS') return emit.call(this, event, res, ...rest);

  // The parser hands the body to `push` as it arrives, read or unread; listening there takes nothing away from the
  // library.
  let body = '';
  let told = false;
  const done = () => {
    if (told) return;
    told = true;
    note(method, res.statusCode, body);
    if (method === 'WS') emit.call(this, event, res, ...rest);
  };
  const push = res.push;
  res.push = function (piece, ...more) {
    if (piece) body += piece.toString();
    const room = push.call(this, piece, ...more);
    if (piece === null) done();
    return room;
  };
  res.once('close', done);
  if (method !== 'WS') return emit.call(this, event, res, ...rest);
  // `ws` destroys the socket as soon as it sees the status: its event waits until the body is here, at most a second.
  setTimeout(done, 1000).unref();
  return true;
};

module.exports = { seen };
