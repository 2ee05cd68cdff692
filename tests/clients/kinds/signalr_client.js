// Real SignalR clients: `transport` is WebSockets, ServerSentEvents or LongPolling; `push: true` asks by an invocation
// from the server.
'use strict';
const { HubConnectionBuilder, HttpTransportType, LogLevel } = require('@microsoft/signalr');
const { Session, run } = require('../lib/kind');

class SignalRSession extends Session {
  open() {
    const transport = HttpTransportType[this.options.transport || 'LongPolling'];
    const options = { transport, skipNegotiation: Boolean(this.options.skipNegotiation) };
    this.hub = new HubConnectionBuilder().withUrl(this.url + (this.options.hub || '/hub'), options).configureLogging(LogLevel.None).build();
    this.hub.serverTimeoutInMilliseconds = 60000;
    this.hub.onclose((error) => this.ended(`closed: ${error?.message}`));
    this.hub.on('pushed', (worker) => this.pushed?.(worker));
    return this.hub.start();
  }
  async ask() {
    const pushed = this.options.push && new Promise((resolve) => (this.pushed = resolve));
    const worker = await this.hub.invoke(pushed ? 'push' : 'whoami');
    if (pushed && (await pushed) !== worker) throw new Error('pushed by another');
    return worker;
  }
  close() {
    return this.hub.stop();
  }
}

run(SignalRSession);
