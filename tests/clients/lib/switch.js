// Between a real client library and one or more proxies: sends every request another way, which the library does not
// notice. A library speaks to one url; the switch takes each of its requests over a connection of its own to the next
// of `urls`, from the next of `addresses`, and can hold all of them back. Bytes pass as they are, but for `Connection`
// and, unless they are asked for, cookies that a server sets: those are counted and removed.
'use strict';
const http = require('http');
const net = require('net');

/** Options: `urls`; `addresses` (how many source addresses take turns, 0: the kernel's choice); `cookies` (they pass). */
function createSwitch({ urls, addresses = 0, cookies = false }) {
  const ways = urls.map((url) => new URL(url));
  const sockets = new Set();
  const seen = { answers: {}, set_cookies: 0 };
  let turn = 0;
  let open = 0; // requests whose answers are not over; streams and tunnels do not count once they have begun
  let held = null; // what waits for `go`
  let quiet = null; // tells `hold` that nothing is open any more

  const way = () => {
    const to = ways[turn % ways.length];
    const localAddress = addresses ? `127.0.2.${1 + (turn % addresses)}` : undefined;
    turn++;
    return { host: to.hostname, port: Number(to.port), localAddress };
  };
  const when = (run) => (held ? held.push(run) : run());
  const begin = () => open++;
  const end = () => --open === 0 && quiet?.();
  const count = (req, status) => {
    const key = `${req.headers.upgrade ? 'WS' : req.method} ${status}`;
    seen.answers[key] = (seen.answers[key] || 0) + 1;
  };

  const onRequest = (req, res) =>
    when(() => {
      begin();
      let over = () => {
        over = () => {};
        end();
      };
      const headers = pairs(req.rawHeaders).filter(([name]) => name.toLowerCase() !== 'connection');
      const onward = http.request({ ...way(), agent: false, method: req.method, path: req.url, headers: [...headers, ['Connection', 'close']].flat() });
      onward.on('response', (answer) => {
        count(req, answer.statusCode);
        const back = pairs(answer.rawHeaders).filter(([name]) => {
          if (name.toLowerCase() === 'set-cookie') seen.set_cookies++;
          return !['connection', 'keep-alive', 'transfer-encoding'].includes(name.toLowerCase()) && (cookies || name.toLowerCase() !== 'set-cookie');
        });
        res.writeHead(answer.statusCode, answer.statusMessage, back.flat());
        res.flushHeaders();
        if ((answer.headers['content-type'] || '').startsWith('text/event-stream')) over();
        answer.pipe(res);
        answer.on('close', () => {
          if (!answer.complete) res.destroy();
          over();
        });
      });
      onward.on('error', () => {
        count(req, 'broken');
        res.destroy();
        over();
      });
      // Its client has gone: so do we, and the proxy is to see it.
      res.on('close', () => {
        if (!res.writableFinished) onward.destroy();
        over();
      });
      req.pipe(onward);
    });

  const onUpgrade = (req, socket, head) =>
    when(() => {
      sockets.add(socket);
      const onward = net.connect(way());
      const lines = pairs(req.rawHeaders).map(([name, value]) => `${name}: ${value}\r\n`);
      onward.write(`${req.method} ${req.url} HTTP/1.1\r\n${lines.join('')}\r\n`);
      onward.write(head);
      onward.once('data', (first) => count(req, first.toString('latin1').split(' ')[1]));
      for (const [from, to] of [
        [socket, onward],
        [onward, socket],
      ]) {
        from.pipe(to);
        from.on('error', () => to.destroy());
        from.on('close', () => to.destroy() && sockets.delete(socket));
      }
    });

  return {
    seen,
    /** Listens on another address: cookies belong to a host, whatever its port. */
    listen: (host = '127.0.0.1') =>
      new Promise((resolve) => {
        const server = http.createServer(onRequest).on('upgrade', onUpgrade);
        server.keepAliveTimeout = 0; // a library's kept connection shall never be closed under a request of its
        server.listen(0, host, () => resolve(`http://${host}:${server.address().port}`));
      }),
    /** From now on requests wait; resolves when none is under way. Tunnels and event streams stay. */
    hold: async () => {
      held ||= [];
      if (open) await new Promise((resolve) => (quiet = resolve));
      quiet = null;
    },
    go: () => {
      const waiting = held || [];
      held = null;
      waiting.forEach((run) => run());
    },
  };
}

function pairs(raw) {
  const all = [];
  for (let i = 0; i < raw.length; i += 2) all.push([raw[i], raw[i + 1]]);
  return all;
}

module.exports = { createSwitch };
