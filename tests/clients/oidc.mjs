// A real OpenID Connect provider (oidc-provider) with one client, which gets a JWT access token by client credentials.
// The provider's advice must not mix with the answer.
console.info = console.warn = console.log = console.error;

import http from 'node:http';
import { Provider } from 'oidc-provider';

const server = http.createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  clients: [{ client_id: 'app', client_secret: 'app-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] }],
  scopes: ['chat'],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:chat',
      getResourceServerInfo: () => ({ scope: 'chat', audience: 'urn:chat', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } }),
    },
  },
});
server.on('request', provider.callback());
const answer = await fetch(`${issuer}/token`, {
  method: 'POST',
  headers: { authorization: `Basic ${btoa('app:app-secret')}` },
  body: new URLSearchParams({ grant_type: 'client_credentials', scope: 'chat', resource: 'urn:chat' }),
});
const { access_token: token, ...rest } = await answer.json();
process.stdout.write(`${JSON.stringify({ issuer, token, rest })}\n`);
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
