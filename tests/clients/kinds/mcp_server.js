// One MCP worker: the SDK's Streamable HTTP transport at /mcp, sessions in memory, and its older HTTP+SSE transport at
// /sse and /messages. Tool `whoami`; tool `push` says it by a notification on the session's own stream.
'use strict';
const { parseArgs } = require('util');
const { randomBytes, randomUUID } = require('crypto');
const { McpServer } = require('@modelcontextprotocol/sdk/server/mcp.js');
const { StreamableHTTPServerTransport } = require('@modelcontextprotocol/sdk/server/streamableHttp.js');
const { SSEServerTransport } = require('@modelcontextprotocol/sdk/server/sse.js');
const { createWorker, announce } = require('../lib/worker');

const { values: opt } = parseArgs({
  options: {
    name: { type: 'string', default: `w${process.pid}` },
    port: { type: 'string', default: '0' },
    json: { type: 'boolean' }, // answers POSTs with JSON, not with an event stream
    jwt: { type: 'boolean' }, // ids as long as a token's, which the specification allows
    stateless: { type: 'boolean' }, // no sessions at all: no Mcp-Session-Id
  },
});

const stats = { made: 0, live: 0, refused: 0, streams: 0 };
const sessions = new Map();
const mine = (req) => /^\/(mcp|sse|messages)(\?|$)/.test(req.url);
const server = createWorker({ name: opt.name, stats, skip: mine });

function application() {
  const app = new McpServer({ name: opt.name, version: '1.0.0' }, { capabilities: { logging: {} } });
  app.registerTool('whoami', { description: 'the worker' }, () => ({ content: [{ type: 'text', text: opt.name }] }));
  app.registerTool('push', { description: 'the worker, by notification' }, async () => {
    await app.server.sendLoggingMessage({ level: 'info', data: opt.name });
    return { content: [{ type: 'text', text: opt.name }] };
  });
  return app;
}

const say = (res, status, code, message) =>
  res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', error: { code, message }, id: null }));

// As the SDK's own example does it.
async function streamable(req, res) {
  if (opt.stateless) {
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
    await application().connect(transport);
    return transport.handleRequest(req, res);
  }
  const id = req.headers['mcp-session-id'];
  if (!id) {
    const transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID() + (opt.jwt ? `.${randomBytes(450).toString('base64url')}` : ''),
      enableJsonResponse: Boolean(opt.json),
      onsessioninitialized: (made) => {
        sessions.set(made, transport);
        stats.made++;
        stats.live++;
      },
    });
    transport.onclose = () => sessions.delete(transport.sessionId) && stats.live--;
    await application().connect(transport);
    return transport.handleRequest(req, res);
  }
  const transport = sessions.get(id);
  if (transport) {
    if (req.method === 'GET') {
      stats.streams++;
      res.on('close', () => stats.streams--);
    }
    return transport.handleRequest(req, res);
  }
  stats.refused++;
  say(res, 404, -32001, 'Session not found');
}

async function older(req, res, url) {
  if (url.pathname === '/sse') {
    const transport = new SSEServerTransport('/messages', res);
    sessions.set(transport.sessionId, transport);
    stats.made++;
    stats.live++;
    res.on('close', () => sessions.delete(transport.sessionId) && stats.live--);
    return application().connect(transport);
  }
  const transport = sessions.get(url.searchParams.get('sessionId'));
  if (transport) return transport.handlePostMessage(req, res);
  stats.refused++;
  // As the SDK's example of this transport says it.
  res.writeHead(404, { 'content-type': 'text/plain' }).end('Session not found');
}

server.on('request', (req, res) => {
  if (!mine(req)) return;
  res.setHeader('x-worker', opt.name);
  const url = new URL(req.url, 'http://worker');
  (url.pathname === '/mcp' ? streamable(req, res) : older(req, res, url)).catch((error) => res.headersSent || say(res, 500, -32603, String(error)));
});
announce(server, {
  name: opt.name,
  port: opt.port,
  commands: {
    // Forgets every session, as a restart would: the next request of each is refused.
    forget: () => {
      sessions.clear();
      stats.live = 0;
    },
  },
});
