// Which server and which source address every connection of a client takes.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');

/** An agent each of whose new connections goes to the next target, from the next local address. */
const spread = (Agent) =>
  class extends Agent {
    constructor({ targets, localAddresses, start = 0, ...rest }) {
      super(rest);
      Object.assign(this, { targets, localAddresses, made: start });
    }
    createConnection(options, done) {
      const i = this.made++;
      const { hostname, port } = this.targets[i % this.targets.length];
      const localAddress = this.localAddresses.length ? this.localAddresses[i % this.localAddresses.length] : undefined;
      // The Host header stays that of the URL, as with a name of several addresses or a balancer of connections.
      return super.createConnection({ ...options, host: hostname, port, localAddress }, done);
    }
  };
const SpreadHttp = spread(http.Agent);
const SpreadHttps = spread(https.Agent);

/**
 * → (i) → {url, agent, tls} for client i. Options: see README.md.
 * Without any of them the agent is `false`: a connection for every request, the default of the Node clients.
 */
function routes({ urls, alternate, localAddresses = [], addressPer = 'client', keepAlive, sharedAgent, ca, insecure }) {
  const targets = urls.map((url) => new URL(url));
  const tls = {};
  if (ca) tls.ca = fs.readFileSync(ca);
  if (insecure) tls.rejectUnauthorized = false;
  const Agent = targets[0].protocol === 'https:' ? SpreadHttps : SpreadHttp;
  const perRequest = alternate === 'request' || (localAddresses.length > 0 && addressPer === 'request');
  if (perRequest && keepAlive) throw new Error('keepAlive ties requests to connections: not with a change per request');

  const agent = (i) => {
    const address = localAddresses.length ? [localAddresses[i % localAddresses.length]] : [];
    return new Agent({
      targets: alternate === 'request' ? targets : [targets[i % targets.length]],
      localAddresses: addressPer === 'request' ? localAddresses : address,
      start: i, // so that the clients do not march in step
      keepAlive: Boolean(keepAlive || sharedAgent),
      maxSockets: sharedAgent ? 1 : Infinity,
      ...tls,
    });
  };
  const shared = sharedAgent && agent(0);
  const plain = !perRequest && !keepAlive && !localAddresses.length;
  return (i) => ({ url: urls[i % urls.length], agent: shared || (plain ? false : agent(i)), tls });
}

module.exports = { routes };
