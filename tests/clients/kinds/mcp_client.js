// Real MCP clients: Streamable HTTP, or the older HTTP+SSE (`transport: "sse"`). `push: true` asks by a notification
// that comes on the session's GET stream. `renew: true`: a 404 is answered with a new session, as the protocol wants it
// of clients; `renewed` counts in its worker's name.
'use strict';
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { SSEClientTransport } = require('@modelcontextprotocol/sdk/client/sse.js');
const { LoggingMessageNotificationSchema } = require('@modelcontextprotocol/sdk/types.js');
const { Session, run } = require('../lib/kind');

class McpSession extends Session {
  async open() {
    const old = this.options.transport === 'sse';
    const again = { initialReconnectionDelay: 100, maxReconnectionDelay: 1000, reconnectionDelayGrowFactor: 1.5, maxRetries: 100 };
    this.transport = old
      ? new SSEClientTransport(new URL(`${this.url}/sse`))
      : new StreamableHTTPClientTransport(new URL(`${this.url}/mcp`), { reconnectionOptions: again });
    this.client = new Client({ name: `c${this.i}`, version: '1.0.0' });
    this.client.onclose = () => this.ended('closed');
    this.client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => this.pushed?.(params.data));
    await this.client.connect(this.transport);
    this.id = this.transport.sessionId;
  }
  async ask() {
    try {
      if (!this.options.push) return await this.call('whoami');
      // The stream opens by itself, some time after the session; earlier notifications would be lost.
      for (;;) {
        const pushed = new Promise((resolve) => (this.pushed = resolve));
        const worker = await this.call('push');
        const heard = await Promise.race([pushed, new Promise((resolve) => setTimeout(resolve, 300))]);
        if (heard && heard !== worker) throw new Error(`${heard} pushed for ${worker}`);
        if (heard) return worker;
      }
    } catch (error) {
      const gone = error.code === 404;
      if (!gone || !this.options.renew) throw error;
      this.closing = true;
      await this.client.close();
      this.closing = false;
      await this.open();
      return this.ask();
    }
  }
  async call(name) {
    const { content } = await this.client.callTool({ name, arguments: {} });
    return content[0].text;
  }
  async close() {
    if (this.transport.terminateSession && this.id) await this.transport.terminateSession();
    await this.client.close();
  }
}

run(McpSession);
