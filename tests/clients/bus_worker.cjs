// A Socket.IO application with no adapter of its own, driven over HTTP: GET /emit?text=…&room=…, /fetch, /ack, … Environment:
// SOCKET_IO (package), RECOVERY (connection state recovery), SERVERS (paths, separated by commas), PARSER (package), ADAPTER
// (classic, sharded or streams) with REDIS (its URL, or those of a cluster's servers), LABELS (the admin listener of stickyd, whose token is in TOKEN: each
// socket gets its room as the label `store`), LABEL_BY (conn or id).
// Prints one line with its port, unless its stdin is a terminal or PM2's. See README.md.
const { createServer } = require('node:http');
const { Server } = require(process.env.SOCKET_IO ?? 'socket.io');

const http = createServer((request, response) => {
  handle(new URL(request.url, 'http://worker')).then(
    (value) => response.end(JSON.stringify(value ?? null)),
    (error) => response.writeHead(500).end(String(error)),
  );
});
const options = process.env.RECOVERY ? { connectionStateRecovery: {} } : {};
if (process.env.PARSER) options.parser = require(process.env.PARSER);
const servers = (process.env.SERVERS ?? '/socket.io').split(',').map((path) => new Server(http, { ...options, path }));
for (const io of servers) {
  io.on('connection', (socket) => {
    socket.data.pid = process.pid;
    socket.on('join', async (room, done) => {
      socket.join(room);
      if (process.env.LABELS) await label(process.env.LABEL_BY === 'id' ? socket.id : socket.conn.id, { store: room });
      done(process.pid);
    });
    socket.on('others', (text) => socket.broadcast.emit('news', text));
    socket.on('hostile', (done) => {
      socket.join('\ud800');
      socket.data.deep = JSON.parse('['.repeat(1000) + ']'.repeat(1000));
      socket.data.name = '\ud800';
      done();
    });
  });
  io.on('question', (text, answer) => answer(`${process.pid}: ${text}`));
}
// What this worker does when it has asked the hub for a lost session, and has no answer yet.
let whileRestoring = () => {};
if (options.connectionStateRecovery) {
  const { adapter } = servers[0].of('/'), restore = adapter.restoreSession;
  adapter.restoreSession = function () {
    const session = restore.apply(this, arguments);
    whileRestoring();
    return session;
  };
}
/** Tells stickyd whose socket this is, as docs/backend.md says. */
async function label(sid, labels) {
  const answer = await fetch(`${process.env.LABELS}/api/v1/sockets/by-sid/${sid}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${process.env.TOKEN}`, 'content-type': 'application/json', 'x-stickyd': '1' },
    body: JSON.stringify({ labels }),
  });
  if (!answer.ok) throw new Error(await answer.text());
}

/** Sets the adapter that ADAPTER names. */
async function setAdapter() {
  const { createClient, createCluster } = require('redis');
  const [url, ...others] = process.env.REDIS.split(',');
  const connect = async () => {
    const rootNodes = [url, ...others].map((of) => ({ url: of }));
    const client = others.length ? createCluster({ rootNodes }) : createClient({ url });
    client.on('error', (error) => console.error('bus_worker.cjs: redis:', error.message));
    await client.connect();
    return client;
  };
  const pub = await connect();
  const adapter = {
    classic: async () => require('@socket.io/redis-adapter').createAdapter(pub, await connect()),
    sharded: async () => require('@socket.io/redis-adapter').createShardedAdapter(pub, await connect(), {
      subscriptionMode: process.env.MODE ?? 'dynamic',
    }),
    streams: async () => require('@socket.io/redis-streams-adapter').createAdapter(pub),
  };
  const chosen = await adapter[process.env.ADAPTER]();
  for (const io of servers) io.adapter(chosen);
}

function say() {
  servers[0].emit('news', 'meanwhile');
  servers[0].to('red').emit('news', 'meanwhile-red');
  servers[0].to('blue').emit('news', 'meanwhile-blue');
  servers[0].except('red').emit('news', 'meanwhile-not-red');
}
/** Lets another worker say something while this one does nothing else, so that it reads the answer and this together. */
function hang(url) {
  setImmediate(() => {
    require('node:child_process').execFileSync('curl', ['-sS', url]);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
  });
}
let rejections = 0;
process.on('unhandledRejection', (error) => { rejections += 1; console.error('bus_worker.cjs: rejected:', error); });
if (!process.env.PM2_HOME) process.stdin.resume().on('end', () => process.exit(0));
const BINARY = {
  1: (text) => Buffer.from(text),
  array: (text) => new Uint8Array(Buffer.from(text)).buffer,
  floats: (text) => new Float64Array(Uint8Array.from(Buffer.from(text.padEnd(16))).buffer),
};

async function handle({ pathname, searchParams }) {
  const { text, room, except, to, ms, server, binary, local, nsp, volatile, size } = Object.fromEntries(searchParams);
  const io = nsp ? servers[0].of(nsp) : servers[server ?? 0];
  let target = room ? io.to(room) : io;
  if (except) target = target.except(except);
  if (local) target = target.local;
  if (volatile) target = target.volatile;
  switch (pathname) {
    case '/emit': return void target.emit('news', binary ? BINARY[binary](text) : text);
    case '/big': return void target.emit('big', text, 'x'.repeat(Number(size)));
    case '/exit': return void (target.emit('news', text), process.exit(0));
    case '/restoring': return void (whileRestoring = text ? () => hang(text) : say);
    case '/fetch': return (await target.fetchSockets()).map(({ id, data, rooms }) => ({ id, data, rooms: [...rooms] }));
    case '/ids': return [...await (room ? io.in(room) : io).allSockets()];
    case '/join': return void target.socketsJoin(to);
    case '/leave': return void target.socketsLeave(to);
    case '/disconnect': return void target.disconnectSockets(true);
    case '/ack': return target.timeout(Number(ms ?? 10000)).emitWithAck('question', text);
    case '/side': return io.serverSideEmitWithAck('question', text);
    case '/again': return again(Number(text));
    case '/count': return { rejections, engines: servers.map(({ engine }) => engine.clientsCount) };
    default: return 'up';
  }
}

/** Creates servers and closes them, as tests of applications do; returns the sockets that this process then has. */
async function again(count) {
  for (let n = 0; n < count; n++) {
    const other = createServer();
    const io = new Server(other, { ...options, path: '/other' });
    await new Promise((done) => other.listen(0, done));
    io.emit('news', 'nobody');
    await new Promise((done) => setTimeout(done, 20));
    await new Promise((done) => io.close(done));
    // It serves once more.
    if (n % 5 === 0) {
      const again = createServer();
      io.attach(again, { path: '/other' });
      await new Promise((done) => again.listen(0, done));
      await new Promise((done) => io.close(done));
    }
  }
  return process.getActiveResourcesInfo().filter((name) => name === 'PipeWrap').length;
}

const listen = () => http.listen(Number(process.env.PORT ?? 0), process.env.HOST ?? '127.0.0.1', () => {
  console.log(JSON.stringify({ port: http.address().port, pid: process.pid }));
});
if (process.env.ADAPTER) setAdapter().then(listen);
else listen();
