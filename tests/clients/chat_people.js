// Two people in the chat of examples/chat, one on each transport: they see each other, type and talk. Each line of
// stdin is a message that the first one sends; what both have received is printed, one JSON line each.
'use strict';
const { io } = require('socket.io-client');
const url = process.argv[2];

const print = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
const join = (name, transports) => {
  const delays = { reconnectionDelay: 100, reconnectionDelayMax: 500 };
  const socket = io(url, { auth: { name }, transports, forceNew: true, ...delays });
  socket.on('present', (names) => print('present', { name, names: [...names].sort() }));
  socket.on('typing', (from) => print('typing', { name, from }));
  socket.on('message', (from, text) => print('message', { name, from, text }));
  socket.on('disconnect', (reason) => print('disconnect', { name, reason }));
  socket.on('connect_error', (error) => print('connect_error', { name, error: error.message }));
  return socket;
};
const ann = join('ann', ['websocket']);
const bob = join('bob', ['polling']);

require('readline')
  .createInterface({ input: process.stdin })
  .on('line', (text) => {
    // What a hostile page could send, which must end no worker.
    bob.emit('message', { toString: 1 });
    bob.emit('message');
    ann.emit('typing');
    ann.emit('message', text);
  })
  .on('close', () => process.exit(0));
