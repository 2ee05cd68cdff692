// A hand-written Engine.IO session over plain http: exactly one request a call, and the caller says which URL, agent
// and source address each one takes. For what real clients cannot be told to do: hold still between two polls, share
// one connection among many sids, change the address within a session, speak JSONP in Node.
//
//   const s = new RawSession({ version: 4, route: (kind) => ({ url: 'http://127.0.0.1:3000', agent, localAddress }) });
//   await s.handshake();  await s.post(['40']);  await s.poll();  const ws = await s.upgrade();  await s.close();
'use strict';
const http = require('http');
const https = require('https');
const zlib = require('zlib');
const WebSocket = require('ws');
const { decode, encode } = require('./lib/payload');

/** An answer that is not what the protocol expects; `refused` = the worker's "I do not know this session". */
class BadAnswer extends Error {
  constructor(method, status, body) {
    super(`${method} ${status} ${body.slice(0, 80)}`);
    Object.assign(this, { method, status, body, refused: isRefusal(status, body) });
  }
}

/** Node's engine.io (as JSON or text), socketioxide (string code), python-engineio: docs/reference/protocols.md §1.4. */
const isRefusal = (status, body) => status === 400 && /Session ID unknown|^"?Invalid session/.test(body);

class RawSession {
  /**
   * version: 4 | 3 · route(kind) → {url, agent, localAddress}, kind: handshake | poll | post | upgrade
   * jsonp: polls as scripts, posts as forms · binary: Engine.IO 3 without b64=1 · headers, tls: {ca, …} for every request
   */
  constructor({ version = 4, route, path = '/socket.io/', jsonp = false, binary = false, headers = {}, tls = {} }) {
    Object.assign(this, { version, route, path, jsonp, binary, headers, tls, sid: null, open: null, ws: null });
    this.requests = 0;
    this.inFlight = new Set();
  }

  /** → {sid, upgrades, pingInterval, pingTimeout, maxPayload}; packets that came along are kept for the first poll. */
  async handshake() {
    const [first, ...rest] = await this.packets('handshake');
    if (first[0] !== '0') throw new Error(`no open packet: ${first}`);
    this.open = JSON.parse(first.slice(1));
    this.sid = this.open.sid;
    this.early = rest;
    return this.open;
  }

  /** One GET → its packets. */
  async poll() {
    const early = this.early || [];
    this.early = [];
    return early.length ? early : this.packets('poll');
  }

  /** One POST of text packets. */
  async post(packets) {
    const { body, type } = encode(packets, this);
    await this.request('POST', 'post', { body, headers: { 'content-type': type } });
  }

  async packets(kind) {
    const { body, contentType } = await this.request('GET', kind);
    return decode(body, { version: this.version, jsonp: this.jsonp, contentType });
  }

  query(transport) {
    const q = new URLSearchParams({ EIO: this.version, transport, t: `${Date.now().toString(36)}.${this.requests++}` });
    if (transport === 'polling' && this.version === 3 && !this.binary) q.set('b64', 1);
    if (transport === 'polling' && this.jsonp) q.set('j', 0);
    if (this.sid) q.set('sid', this.sid);
    return q;
  }

  request(method, kind, { body, headers } = {}) {
    const { url, agent = false, localAddress } = this.route(kind);
    const target = new URL(`${this.path}?${this.query('polling')}`, url);
    const options = { method, agent, localAddress, ...this.tls, headers: { ...this.headers, ...headers } };
    if (body !== undefined) options.headers['content-length'] = Buffer.byteLength(body);
    return new Promise((resolve, reject) => {
      const req = (target.protocol === 'https:' ? https : http).request(target, options, (res) => {
        const pieces = [];
        res.on('data', (piece) => pieces.push(piece));
        res.on('error', reject);
        res.on('end', () => {
          const coded = /gzip|deflate/.test(res.headers['content-encoding'] || '');
          const whole = coded ? zlib.unzipSync(Buffer.concat(pieces)) : Buffer.concat(pieces);
          if (res.statusCode !== 200) return reject(new BadAnswer(method, res.statusCode, whole.toString()));
          resolve({ body: whole, contentType: res.headers['content-type'] });
        });
      });
      this.inFlight.add(req);
      req.on('close', () => this.inFlight.delete(req));
      req.on('error', reject);
      req.end(body);
    });
  }

  /** Opens the WebSocket of this session (or of a new one, if there was no handshake), probes and switches; → the ws. */
  async upgrade() {
    const { url, agent, localAddress } = this.route('upgrade');
    const target = new URL(`${this.path}?${this.query('websocket')}`, url);
    target.protocol = target.protocol.replace('http', 'ws');
    const ws = new WebSocket(target, { agent, localAddress, headers: this.headers, perMessageDeflate: false, ...this.tls });
    await new Promise((resolve, reject) => {
      ws.once('open', resolve);
      ws.once('error', reject);
      ws.once('unexpected-response', (_, res) => {
        const pieces = [];
        res.on('data', (piece) => pieces.push(piece));
        const whole = () => reject(new BadAnswer('WS', res.statusCode, Buffer.concat(pieces).toString()));
        res.on('end', whole).on('close', whole);
      });
    });
    if (this.sid) {
      ws.send('2probe');
      const answer = await frame(ws);
      if (answer !== '3probe') throw new Error(`no 3probe: ${answer}`);
      ws.send('5');
    } else {
      this.open = JSON.parse((await frame(ws)).slice(1));
      this.sid = this.open.sid;
    }
    return (this.ws = ws);
  }

  /** Ends the session as a client does: close packet, or close frame. */
  async close() {
    if (this.ws) return this.ws.close();
    await this.post(['1']);
  }

  /** Drops every request in flight without a word, as a client that loses its network. */
  abort() {
    for (const req of this.inFlight) req.destroy();
    if (this.ws) this.ws.terminate();
  }
}

const frame = (ws) =>
  new Promise((resolve, reject) => {
    ws.once('message', (data) => resolve(data.toString()));
    ws.once('close', (code) => reject(new Error(`closed: ${code}`)));
  });

module.exports = { RawSession, BadAnswer, isRefusal };
