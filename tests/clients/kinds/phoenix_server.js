// One Phoenix worker, by the wire protocol of Phoenix.Transports.LongPoll (1.8) and of its serializer 2.0.0: sessions
// are known to the node that made them only, as nodes that are no cluster. A poll without a token, or with one it does
// not know, is answered with a new session (HTTP 200, "status": 410); a POST with one it does not know with "status":
// 410. Any topic may be joined; `whoami` is answered with its name.
'use strict';
const { parseArgs } = require('util');
const { randomBytes } = require('crypto');
const { createWorker, announce } = require('../lib/worker');

const { values: opt } = parseArgs({
  options: {
    name: { type: 'string', default: `w${process.pid}` },
    port: { type: 'string', default: '0' },
    stranger: { type: 'string', default: '0' }, // ms until a POST it does not know is refused; Phoenix: 2 s, where the token's signature is its own
    window: { type: 'string', default: '300' }, // ms until an empty poll is answered; Phoenix: 10 s
  },
});

const stats = { made: 0, live: 0, refused: 0, replaced: 0 };
const sessions = new Map();

class Node {
  constructor() {
    Object.assign(this, { out: [], poll: null });
  }
  push(message) {
    this.out.push(JSON.stringify(message));
    this.poll?.();
  }
  /** `[join_ref, ref, topic, event, payload]` */
  receive(text) {
    const [joinRef, ref, topic, event] = JSON.parse(text);
    this.push([joinRef, ref, topic, 'phx_reply', { status: 'ok', response: event === 'whoami' ? { worker: opt.name } : {} }]);
  }
}

const answer = (res, body) => {
  const text = JSON.stringify(body);
  res.writeHead(200, { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-cache', 'content-length': Buffer.byteLength(text) }).end(text);
};

function poll(res, token) {
  const node = sessions.get(token);
  if (!node) {
    if (token) stats.replaced++;
    // A signed term, in Phoenix: about as long, and of the same characters.
    const made = `SFMyNTY.${randomBytes(120).toString('base64url')}.${randomBytes(32).toString('base64url')}`;
    sessions.set(made, new Node());
    stats.made++;
    stats.live++;
    return answer(res, { status: 410, token: made, messages: [] });
  }
  const finish = () => {
    clearTimeout(late);
    node.poll = null;
    const messages = node.out;
    node.out = [];
    answer(res, { status: messages.length ? 200 : 204, token, messages });
  };
  const late = setTimeout(finish, Number(opt.window));
  node.poll = finish;
  res.on('close', () => {
    if (res.writableFinished) return;
    clearTimeout(late);
    node.poll = null;
  });
  if (node.out.length) finish();
}

const server = createWorker({ name: opt.name, stats, skip: (req) => req.url.startsWith('/socket/longpoll') });
server.on('request', (req, res) => {
  const { pathname, searchParams } = new URL(req.url, 'http://worker');
  if (pathname !== '/socket/longpoll') return;
  res.setHeader('x-worker', opt.name);
  const token = searchParams.get('token') || '';
  const body = [];
  req.on('data', (piece) => body.push(piece));
  req.on('end', () => {
    if (req.method === 'GET') return poll(res, token);
    const node = sessions.get(token);
    if (!node) {
      stats.refused++;
      return setTimeout(answer, Number(opt.stranger), res, { status: 410 });
    }
    for (const line of Buffer.concat(body).toString().split('\n')) node.receive(line);
    answer(res, { status: 200 });
  });
});
announce(server, { name: opt.name, port: opt.port });
