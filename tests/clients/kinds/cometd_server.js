// One CometD worker (Bayeux long polling): `/service/who` is answered with the worker's name. `--timeout` ms end a
// quiet poll.
'use strict';
const { parseArgs } = require('util');
const cometd = require('cometd-nodejs-server');
const { createWorker, announce } = require('../lib/worker');

const { values: opt } = parseArgs({
  options: {
    name: { type: 'string', default: `w${process.pid}` },
    port: { type: 'string', default: '0' },
    timeout: { type: 'string', default: '300' },
  },
});

const stats = { made: 0, refused: 0 };
const server = createWorker({ name: opt.name, stats, skip: (req) => req.url.startsWith('/cometd') });
const bayeux = cometd.createCometDServer({ timeout: Number(opt.timeout), maxInterval: 20000 });
bayeux.policy = {
  canHandshake: (_session, _message, callback) => {
    stats.made++;
    callback(undefined, true);
  },
};
bayeux.createServerChannel('/service/who').addListener('message', (session, channel, message, callback) => {
  session.deliver(null, channel.name, { worker: opt.name, number: message.data.number });
  callback();
});
server.on('request', (req, res) => {
  if (!req.url.startsWith('/cometd')) return;
  res.setHeader('x-worker', opt.name);
  const end = res.end;
  res.end = (body, ...rest) => {
    if (String(body || '').includes('402::')) stats.refused++;
    return end.call(res, body, ...rest);
  };
  bayeux.handle(req, res);
});
announce(server, { name: opt.name, port: opt.port });
