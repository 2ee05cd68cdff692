// Many Engine.IO sessions of a Socket.IO app on ONE HTTP/2 connection, as a browser with many tabs has them: polling,
// then the WebSocket of each over the same connection (RFC 8441). Node's own http2 client; `ws` only reads and writes
// frames.
//
//   node h2.js '{"url": "https://localhost:1234", "ca": "cert.pem", "n": 50, "messages": 5, "fresh": 10}'
//
// `n` sessions poll and upgrade, `fresh` more begin as WebSockets. One JSON line at the end; `connections` is always 1.
'use strict';
const fs = require('fs');
const http2 = require('http2');
const WebSocket = require('ws');
const { decode } = require('./lib/payload');

const { url, ca, n = 50, fresh = 0, messages = 5, timeout = 25000 } = JSON.parse(process.argv[2]);
const session = http2.connect(url, { ca: fs.readFileSync(ca), servername: 'localhost' });
const tally = { connected: 0, upgraded: 0, fresh: 0, echoes: 0, workers: {}, errors: {}, connections: 1 };
const failed = (error) => (tally.errors[error.message] = (tally.errors[error.message] || 0) + 1);
session.on('error', failed);

const path = (transport, sid) => `/socket.io/?EIO=4&transport=${transport}${sid ? `&sid=${sid}` : ''}`;

function request(method, sid, body) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': method, ':path': path('polling', sid) }, { endStream: !body });
    const pieces = [];
    let status = 0;
    stream.on('response', (head) => (status = head[':status']));
    stream.on('data', (piece) => pieces.push(piece));
    stream.on('error', reject);
    stream.on('end', () => {
      const text = Buffer.concat(pieces).toString();
      if (status !== 200) return reject(new Error(`${method} ${status} ${text.slice(0, 60)}`));
      resolve(text);
    });
    if (body) stream.end(body);
  });
}

const packets = async (sid) => decode(Buffer.from(await request('GET', sid)), { version: 4 });

/** Polls until a packet begins with `wanted`; answers pings. */
async function until(sid, wanted) {
  for (;;) {
    for (const packet of await packets(sid)) {
      if (packet === '2') await request('POST', sid, '3');
      else if (packet.startsWith(wanted)) return packet;
    }
  }
}

/** An extended CONNECT; → a ws on its stream. */
function socket(sid) {
  return new Promise((resolve, reject) => {
    const stream = session.request(
      { ':method': 'CONNECT', ':protocol': 'websocket', ':path': path('websocket', sid), 'sec-websocket-version': '13' },
      { endStream: false },
    );
    stream.once('error', reject);
    stream.once('response', (head) => {
      if (head[':status'] !== 200) return reject(new Error(`CONNECT ${head[':status']}`));
      const ws = new WebSocket(null, undefined, { autoPong: true });
      ws._isServer = false; // without an address it takes itself for one
      ws.received = [];
      ws.on('message', (data) => {
        ws.received.push(data.toString());
        ws.wake?.();
      });
      ws.setSocket(stream, Buffer.alloc(0), { maxPayload: 1e6 });
      resolve(ws);
    });
  });
}

/** The next frame that begins with `wanted`. */
async function next(ws, wanted) {
  for (;;) {
    while (ws.received.length) {
      const packet = ws.received.shift();
      if (packet === '2') ws.send('3');
      else if (packet.startsWith(wanted)) return packet;
    }
    await new Promise((resolve) => (ws.wake = resolve));
  }
}

function echoed(answer, i) {
  const [, number, worker] = JSON.parse(answer.slice(2));
  if (number !== i) throw new Error(`echo ${number} for ${i}`);
  tally.echoes++;
  return worker;
}

async function life() {
  const [open] = decode(Buffer.from(await request('GET')), { version: 4 });
  const { sid } = JSON.parse(open.slice(1));
  await request('POST', sid, '40');
  await until(sid, '40');
  tally.connected++;
  let worker;
  for (let i = 0; i < messages; i++) {
    // The poll is open before the message goes, as a real client's is.
    const answer = until(sid, '42');
    await request('POST', sid, `42["n",${i}]`);
    const now = echoed(await answer, i);
    if (worker && now !== worker) throw new Error('another worker');
    worker = now;
  }
  tally.workers[worker] = (tally.workers[worker] || 0) + 1;
  const ws = await socket(sid);
  ws.send('2probe');
  await next(ws, '3probe');
  ws.send('5');
  tally.upgraded++;
  await talk(ws, worker);
}

async function freshLife() {
  const ws = await socket();
  await next(ws, '0');
  ws.send('40');
  await next(ws, '40');
  tally.fresh++;
  await talk(ws);
}

async function talk(ws, worker) {
  for (let i = 0; i < messages; i++) {
    ws.send(`42["n",${i}]`);
    const now = echoed(await next(ws, '42'), i);
    if (worker && now !== worker) throw new Error('another worker');
    worker = now;
  }
  const closed = new Promise((resolve) => ws.once('close', resolve));
  ws.close(1000);
  await closed;
}

session.once('remoteSettings', (settings) => {
  if (!settings.enableConnectProtocol) failed(new Error('no RFC 8441'));
  const lives = [...Array.from({ length: n }, life), ...Array.from({ length: fresh }, freshLife)].map((one) => one.catch(failed));
  const limit = new Promise((resolve) => setTimeout(() => resolve(failed(new Error('timeout'))), timeout));
  Promise.race([Promise.all(lives), limit]).then(() => {
    process.stdout.write(JSON.stringify({ event: 'result', ...tally }) + '\n');
    session.destroy();
    process.exit(0);
  });
});
