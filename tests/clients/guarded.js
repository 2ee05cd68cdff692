// One real socket.io-client that a guard may refuse: it prints what its application sees, one JSON line per event, and
// at the end how often it tried. Options: see README.md.
'use strict';
const LIBRARIES = { 4: 'socket.io-client', 2: 'socket.io-client-2' };

const options = JSON.parse(process.argv[2]);
const { url, version = 4, namespaces = ['/'], auth, query, extraHeaders, transports, tokens, settle = 1500 } = options;
const io = require(LIBRARIES[version]);
const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);

const clients = options.clients ?? 1; // that many of them, each with its own attempts
let timer;
const quiet = () => {
  clearTimeout(timer);
  timer = setTimeout(() => finish(), settle);
};
function finish() {
  say('end', { attempts: Math.max(...tried) });
  process.exit(0);
}

const base = {
  forceNew: false,
  reconnectionDelay: 50,
  reconnectionDelayMax: 100,
  ...(transports && { transports }),
  ...(query && { query }),
  ...(extraHeaders && { extraHeaders }),
};
const tried = Array.from({ length: clients }, () => 1);
const managers = tried.map((_, place) => {
  const manager = new io.Manager(url, base);
  manager.on('reconnect_attempt', () => {
    tried[place] += 1;
    say('again');
  });
  return manager;
});
const sockets = managers.flatMap((manager) => namespaces.map((namespace) => {
  const own = tokens?.[namespace] !== undefined ? { token: tokens[namespace] } : auth;
  const socket = manager.socket(namespace, own && { auth: own });
  const at = { ns: namespace };
  socket.on('connect', () => {
    say('connect', { ...at, transport: manager.engine.transport.name });
    socket.emit('echo', 'x', (value) => say('echo', { ...at, value }));
    if (options.stays) return clearTimeout(timer);
    quiet();
  });
  const refused = (error) => {
    const code = error?.data?.code ?? null;
    const text = typeof error === 'string' ? error : error?.message;
    const status = error?.context?.status ?? error?.description?.status ?? (typeof error?.description === 'number' ? error.description : null);
    say('error', { ...at, message: text, code, status, body: error?.context?.responseText ?? null, active: socket.active ?? null });
    quiet();
  };
  socket.on('connect_error', refused);
  if (version < 3) socket.on('error', refused);
  socket.on('disconnect', (reason, details) => {
    say('disconnect', { ...at, reason, code: details?.context?.code ?? null, text: details?.context?.reason?.toString() ?? null });
    quiet();
  });
  return socket;
}));
// The time of quiet begins with the first event: on a busy machine a client takes long to start.
sockets.forEach((socket) => socket.connect?.());
// Commands: a line `emit NAMESPACE` sends one more message, `emit NAMESPACE 70` one of that length; the end of stdin ends
// the client.
process.stdin.on('data', (data) => {
  for (const line of data.toString().split('\n').filter(Boolean)) {
    const [word, namespace, length = '1'] = line.split(' ');
    const socket = sockets[namespaces.indexOf(namespace)];
    if (word === 'emit') socket.emit('echo', 'y'.repeat(Number(length)), (value) => say('echo', { ns: namespace, value }));
    if (word === 'finish') finish();
  }
});
process.stdin.on('end', () => process.exit(0));
