const page = require('node:fs').readFileSync(`${__dirname}/index.html`);
const http = require('node:http').createServer((req, res) => res.end(page));
const io = new (require('socket.io').Server)(http);
const text = (given, most) => (typeof given === 'string' ? given.slice(0, most) : '');
const present = () => io.fetchSockets().then((all) => io.emit('present', all.map((one) => one.data.name)), () => {});

io.on('connection', (socket) => {
  const name = (socket.data.name = text(socket.handshake.auth.name, 20) || 'guest');
  socket.on('message', (said) => io.emit('message', name, text(said, 500)));
  socket.on('typing', () => socket.broadcast.emit('typing', name));
  socket.on('disconnect', present);
  present();
});
http.listen(process.env.PORT || 3000);
