// Loaded by stickyd before an application that always listens on one port, whatever PORT says. It moves exactly that
// port to the one in PORT, in the process itself and in the workers of node:cluster. Other ports stay as they are.
'use strict';
const from = Number(process.env.STICKYD_SHIFT_PORT);
const to = process.env.PORT;
if (from > 0 && to) {
  const { Server } = require('node:net');
  const { listen } = Server.prototype;
  const target = /^[0-9]+$/.test(to) ? Number(to) : to;
  // listen(port, …) takes numbers and numeric strings; listen({ port, … }) an object.
  Server.prototype.listen = function (...args) {
    const [first] = args;
    if (first !== null && typeof first === 'object' && Number(first.port) === from) {
      const { port, ...rest } = first;
      args[0] = typeof target === 'number' ? { ...rest, port: target } : { ...rest, path: target };
    } else if ((typeof first === 'number' || typeof first === 'string') && Number(first) === from) {
      args[0] = target;
      // A path has no host.
      if (typeof target === 'string' && typeof args[1] === 'string') args.splice(1, 1);
    }
    return listen.apply(this, args);
  };
}
