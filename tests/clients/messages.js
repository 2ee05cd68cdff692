// Counts the clients that the messages of one worker reach: `node messages.js URL CLIENTS all|own`. The workers run
// chat.js of docs/messages.md. Real Socket.IO clients connect (a third by polling, a third by WebSocket, a third with an
// upgrade), and one of them, the speaker, asks its worker to emit. `all` or `own` is what is waited for: clients of all
// workers, or of the speaker's worker only. Prints one JSON line; see README.md.
const { io } = require('socket.io-client');

const [url, count, wanted] = process.argv.slice(2);
const TRANSPORTS = [['polling'], ['websocket'], ['polling', 'websocket']];
const PATIENCE_MS = 20000; // two busy cores
const QUIET_MS = 500; // a message too many would come meanwhile
const ROOM = 'red';

process.stdin.resume().on('end', () => process.exit(1)); // the test has ended
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(condition) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await condition()) && Date.now() < end) await sleep(50);
}

function connect(i) {
  const socket = io(url, { transports: TRANSPORTS[i % TRANSPORTS.length], forceNew: true });
  const client = { socket, texts: 0, buffers: 0, room: 0 };
  socket.on('news', (news) => { client[Buffer.isBuffer(news) && news.length === 3 ? 'buffers' : 'texts'] += 1; });
  socket.on('room', () => { client.room += 1; });
  socket.on('connect_error', (error) => console.error('messages.js:', error.message));
  return client;
}

async function main() {
  const clients = Array.from({ length: Number(count) }, (_, i) => connect(i));
  await until(() => clients.every(({ socket }) => socket.connected));
  const ask = (client, ...args) => client.socket.timeout(PATIENCE_MS).emitWithAck(...args);
  for (const client of clients) client.worker = (await ask(client, 'who')).pid;

  const [speaker, ...others] = clients;
  const own = (list) => list.filter(({ worker }) => worker === speaker.worker);
  const members = others.filter((_, i) => i % 2 === 0);
  const expected = wanted === 'all' ? clients : own(clients);
  const room = wanted === 'all' ? members : own(members);

  let listed; // the workers of an adapter need a moment to find each other
  await until(async () => { listed = await ask(speaker, 'list'); return listed.count === expected.length; });
  for (const client of members) await ask(client, 'join', ROOM);
  speaker.socket.emit('shout', 'hello');
  speaker.socket.emit('shout', Buffer.from([1, 2, 3]));
  speaker.socket.emit('tell', ROOM, 'hello');
  const sum = (list, key) => list.reduce((total, client) => total + client[key], 0);
  await until(() => sum(clients, 'texts') >= expected.length && sum(clients, 'buffers') >= expected.length
    && sum(clients, 'room') >= room.length);
  await sleep(QUIET_MS);

  console.log(JSON.stringify({
    clients: clients.length,
    workers: new Set(clients.map(({ worker }) => worker)).size,
    clients_of_worker: own(clients).length,
    texts: sum(clients, 'texts'),
    buffers: sum(clients, 'buffers'),
    members: members.length,
    members_of_worker: own(members).length,
    room: sum(clients, 'room'),
    room_of_members: sum(members, 'room'),
    listed,
  }));
  process.exit(0);
}

main();
