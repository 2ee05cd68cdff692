// A preload script that shifts a hard-coded port by the number of the instance: N becomes N, N+1, N+2, …
//
//     node -r ./portshift.cjs app.js
//
// STICKYD_PORT       the port to shift; default: every port is shifted
// STICKYD_INSTANCE   the instance's number; default: PM2's NODE_APP_INSTANCE
//
// The number is read at each listen(), not when this file is loaded: in cluster mode PM2 sets it after preloads have
// run.
const net = require('node:net');

const listen = net.Server.prototype.listen;

function shifted(port) {
  const only = Number(process.env.STICKYD_PORT || 0);
  const instance = Number(process.env.STICKYD_INSTANCE || process.env.NODE_APP_INSTANCE || 0);
  const wanted = Number(port);
  // 0 means any free port, which cannot collide.
  if (wanted === 0 || (only && wanted !== only)) return port;
  return wanted + instance;
}

net.Server.prototype.listen = function (...args) {
  const [first] = args;
  if (first && typeof first === 'object' && first.port !== undefined) {
    args[0] = { ...first, port: shifted(first.port) };
  } else if (/^\d+$/.test(String(first))) {
    args[0] = shifted(first);
  }
  return listen.apply(this, args);
};
