// An ES module that emits and fetches over HTTP, on a framework: `FRAMEWORK=plain|express|fastify|nest|next`. It knows
// nothing of a bus. The same routes as bus_worker.cjs: /emit?text=, /fetch, /count. See README.md.
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const host = process.env.HOST ?? '127.0.0.1';
const port = Number(process.env.PORT ?? 0);
const routes = (io) => ({
  '/emit': ({ text }) => void io().emit('news', text),
  '/fetch': async () => (await io().fetchSockets()).map(({ id }) => ({ id })),
  '/count': () => ({ rejections }),
});
let rejections = 0;
process.on('unhandledRejection', () => (rejections += 1));
process.stdin.resume().on('end', () => process.exit(0));

function serve(io) {
  io.on('connection', (socket) => {
    socket.on('join', (room, done) => { socket.join(room); done(process.pid); });
  });
}

const frameworks = {
  async plain() {
    const http = createServer((request, response) => {
      const url = new URL(request.url, 'http://worker');
      Promise.resolve(answers[url.pathname]?.(Object.fromEntries(url.searchParams)) ?? 'up')
        .then((value) => response.end(JSON.stringify(value ?? null)));
    });
    const io = new Server(http);
    const answers = routes(() => io);
    serve(io);
    await new Promise((done) => http.listen(port, host, done));
  },
  async express() {
    const { default: express } = await import('express');
    const app = express();
    const http = createServer(app);
    const io = new Server(http);
    for (const [path, answer] of Object.entries(routes(() => io))) {
      app.get(path, async (request, response) => response.json((await answer(request.query)) ?? null));
    }
    serve(io);
    await new Promise((done) => http.listen(port, host, done));
  },
  async fastify() {
    const { default: fastify } = await import('fastify');
    const app = fastify();
    const io = new Server(app.server);
    for (const [path, answer] of Object.entries(routes(() => io))) {
      app.get(path, async (request, reply) => reply.send(JSON.stringify((await answer(request.query)) ?? null)));
    }
    serve(io);
    await app.listen({ port, host });
  },
  async nest() {
    await import('reflect-metadata');
    const { Module } = await import('@nestjs/common');
    const { NestFactory } = await import('@nestjs/core');
    const { WebSocketGateway, WebSocketServer } = await import('@nestjs/websockets');
    class Gateway {
      afterInit(io) { serve(io); }
    }
    WebSocketServer()(Gateway.prototype, 'io');
    WebSocketGateway()(Gateway);
    class App {}
    Module({ providers: [Gateway] })(App);
    const app = await NestFactory.create(App, { logger: false });
    for (const [path, answer] of Object.entries(routes(() => app.get(Gateway).io))) {
      app.getHttpAdapter().get(path, async (request, response) => response.json((await answer(request.query)) ?? null));
    }
    await app.listen(port, host);
  },
  // A custom server, as Next.js documents it; `next` is not among the packages of the tests: see tests/bus.rs.
  async next() {
    const { default: next } = await import('next');
    const app = next({ dev: false, dir: process.env.NEXT_DIR });
    await app.prepare();
    const handle = app.getRequestHandler();
    const http = createServer(async (request, response) => {
      const url = new URL(request.url, 'http://worker');
      const answer = answers[url.pathname];
      if (!answer) return handle(request, response);
      response.end(JSON.stringify((await answer(Object.fromEntries(url.searchParams))) ?? null));
    });
    const io = new Server(http);
    const answers = routes(() => io);
    serve(io);
    await new Promise((done) => http.listen(port, host, done));
  },
};

await frameworks[process.env.FRAMEWORK ?? 'plain']();
console.log(JSON.stringify({ port, pid: process.pid }));
