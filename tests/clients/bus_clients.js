// Socket.IO clients that count what reaches them: `node bus_clients.js COUNT URL…` connects COUNT clients to the URLs in
// turn (a third by polling, a third by WebSocket, a third with an upgrade); every second one joins the room `red`. Each
// line on stdin is a text: once all who should have got it have, or after two seconds, a JSON line says how many clients
// got it once, and how often it came in all. `leave URL` breaks all connections, as a lost network does, and `return`
// connects again, to this URL. See README.md.
const { io } = require('socket.io-client');

const [count, ...urls] = process.argv.slice(2);
const TRANSPORTS = [['polling'], ['websocket'], ['polling', 'websocket']];
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function connect(i) {
  const delay = Number(process.env.DELAY ?? 100);
  const options = { transports: TRANSPORTS[i % 3], forceNew: true, reconnectionDelay: delay, reconnectionDelayMax: 5 * delay };
  const path = process.env.IO_PATH;
  if (path) options.path = path;
  if (process.env.PARSER) options.parser = require(process.env.PARSER);
  if (process.env.TRANSPORT) options.transports = process.env.TRANSPORT.split(',');
  const socket = io(urls[i % urls.length] + (process.env.NSP ?? ''), options);
  const client = { socket, news: new Map(), order: [], recovered: 0, connects: 0, bytes: 0 };
  socket.on('news', (text) => {
    text = String(text).trimEnd();
    client.news.set(text, (client.news.get(text) ?? 0) + 1);
    client.order.push(text);
  });
  socket.on('big', (text, filling) => {
    client.news.set(text, (client.news.get(text) ?? 0) + 1);
    client.bytes += filling.length;
  });
  socket.on('question', (text, answer) => answer(`${i}: ${text}`));
  socket.on('connect', () => { client.connects += 1; client.recovered += socket.recovered ? 1 : 0; });
  return client;
}

async function main() {
  const clients = Array.from({ length: Number(count) }, (_, i) => connect(i));
  while (!clients.every(({ socket }) => socket.connected)) await sleep(20);
  const workers = new Set();
  for (const [i, { socket }] of clients.entries()) workers.add(await socket.emitWithAck('join', i % 2 ? 'blue' : 'red'));
  console.log(JSON.stringify({ clients: clients.length, workers: workers.size }));
  for await (const line of require('node:readline').createInterface({ input: process.stdin })) {
    const [word, ...rest] = line.split(' ');
    console.log(JSON.stringify(await answers[word](clients, rest)));
  }
  process.exit(0);
}

const answers = {
  // `got TEXT WANTED`; `soon TEXT WANTED` waits for a second at most
  soon: (clients, [text, wanted]) => answers.got(clients, [text, wanted], 20),
  async got(clients, [text, wanted], looks = 400) {
    const total = () => clients.reduce((sum, { news }) => sum + (news.get(text) ?? 0), 0);
    for (let n = 0; n < looks && total() < Number(wanted); n++) await sleep(50);
    await sleep(200); // a message too many would come meanwhile
    const red = clients.filter(({ news }, i) => i % 2 === 0 && news.get(text)).length;
    return { once: clients.filter(({ news }) => news.get(text) === 1).length, total: total(), red };
  },
  // `series PREFIX COUNT`: whether each client got PREFIX0, PREFIX1, … once and in order
  async series(clients, [prefix, count]) {
    const wanted = Array.from({ length: Number(count) }, (_, n) => prefix + n);
    const mine = ({ order }) => order.filter((text) => text.startsWith(prefix));
    for (let n = 0; n < 400 && clients.some((client) => mine(client).length < wanted.length); n++) await sleep(50);
    await sleep(200);
    const lists = clients.map(mine);
    return { whole: lists.filter((list) => list.join() === wanted.join()).length, lengths: lists.map(({ length }) => length) };
  },
  async leave(clients, [url]) {
    for (const { socket } of clients) {
      socket.io.reconnection(false);
      socket.io.uri = url;
      socket.io.engine.close();
    }
    return answers.connected(clients, [0]);
  },
  async return(clients) {
    for (const { socket } of clients) socket.connect();
    return answers.connected(clients, [clients.length]);
  },
  // `others TEXT`: the first client says it to all others
  async others(clients, [text]) {
    clients[0].socket.emit('others', text);
    return answers.got(clients, [text, clients.length - 1]);
  },
  async hostile(clients) {
    for (const { socket } of clients) await socket.emitWithAck('hostile');
    return {};
  },
  async bytes(clients) {
    return clients.map(({ bytes }) => bytes);
  },
  async connected(clients, [wanted]) {
    const live = () => clients.filter(({ socket }) => socket.connected).length;
    for (let n = 0; n < 400 && live() !== Number(wanted); n++) await sleep(50);
    return { connected: live(), recovered: clients.map(({ recovered }) => recovered) };
  },
};

main();
