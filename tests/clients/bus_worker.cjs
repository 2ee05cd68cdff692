// A Socket.IO application with no adapter of its own, driven over HTTP: GET /emit?text=…&room=…, /fetch, /ack, … Environment:
// SOCKET_IO (package), RECOVERY (connection state recovery), SERVERS (paths, separated by commas). Prints one line with
// its port, and one for each unhandled rejection. See README.md.
const { createServer } = require('node:http');
const { Server } = require(process.env.SOCKET_IO ?? 'socket.io');

const http = createServer((request, response) => {
  handle(new URL(request.url, 'http://worker')).then(
    (value) => response.end(JSON.stringify(value ?? null)),
    (error) => response.writeHead(500).end(String(error)),
  );
});
const options = process.env.RECOVERY ? { connectionStateRecovery: {} } : {};
const servers = (process.env.SERVERS ?? '/socket.io').split(',').map((path) => new Server(http, { ...options, path }));
for (const io of servers) {
  io.on('connection', (socket) => {
    socket.data.pid = process.pid;
    socket.on('join', (room, done) => { socket.join(room); done(process.pid); });
  });
  io.on('question', (text, answer) => answer(`${process.pid}: ${text}`));
}
let rejections = 0;
process.on('unhandledRejection', (error) => { rejections += 1; console.error('bus_worker.cjs: rejected:', error); });
process.stdin.resume().on('end', () => process.exit(0));

async function handle({ pathname, searchParams }) {
  const { text, room, except, to, ms, server, binary, local } = Object.fromEntries(searchParams);
  const io = servers[server ?? 0];
  let target = room ? io.to(room) : io;
  if (except) target = target.except(except);
  if (local) target = target.local;
  switch (pathname) {
    case '/emit': return void target.emit('news', binary ? Buffer.from(text) : text);
    case '/fetch': return (await target.fetchSockets()).map(({ id, data, rooms }) => ({ id, data, rooms: [...rooms] }));
    case '/ids': return [...await (room ? io.in(room) : io).allSockets()];
    case '/join': return void target.socketsJoin(to);
    case '/leave': return void target.socketsLeave(to);
    case '/disconnect': return void target.disconnectSockets(true);
    case '/ack': return target.timeout(Number(ms ?? 10000)).emitWithAck('question', text);
    case '/side': return io.serverSideEmitWithAck('question', text);
    case '/count': return { rejections, engines: servers.map(({ engine }) => engine.clientsCount) };
    default: return 'up';
  }
}

http.listen(Number(process.env.PORT ?? 0), process.env.HOST ?? '127.0.0.1', () => {
  console.log(JSON.stringify({ port: http.address().port, pid: process.pid }));
});
