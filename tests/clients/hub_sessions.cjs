// The preload's part in recovery, without a hub: which of a worker's own messages a session gets that was asked for
// meanwhile, and what happens if there are too many. Exits with 1 if something is wrong.
const assert = require('node:assert');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');

const text = readFileSync(join(__dirname, '../../src/bus/preload/sessions.cjs'), 'utf8');
const names = ['quietly', 'REPORT', 'TO_HUB', 'json', 'unpack'];
const HubSessions = new Function(...names, `${text}\nreturn HubSessions;`)((run) => run(), 1e6, {}, JSON.stringify, null);

const questions = [];
const link = { live: true, send() {}, ask: (question) => questions.push(question) && { id: questions.length } };
const sessions = new HubSessions({ link, nsp: { name: '/', sockets: new Map() }, decode: () => [] });
const say = (n, room) => sessions.said(n, { rooms: new Set(room && [room]), except: new Set() });
const answer = (number) => {
  questions[number].answer({ header: { session: { sid: 's', rooms: ['red'], data: {} } }, body: Buffer.alloc(0) });
  questions[number].end();
};

(async () => {
  say(0);
  const first = sessions.restore('a', 0);
  say(1);
  const second = sessions.restore('b', 0);
  say(2, 'red');
  say(3, 'blue');
  answer(0);
  assert.deepStrictEqual((await first).missedPackets, [1, 2], 'what was said since the first question, for its rooms');
  answer(1);
  assert.deepStrictEqual((await second).missedPackets, [2], 'what was said since the second question');
  assert.strictEqual(sessions.heard.length, 0, 'nothing is kept without a question');

  const flooded = sessions.restore('c', 0);
  for (let n = 0; n <= 10_000; n++) say(n);
  assert.strictEqual(sessions.heard.length, 1, 'the list begins anew when it is full');
  const late = sessions.restore('d', 0);
  say('late');
  answer(2);
  assert.strictEqual(await flooded, null, 'a session whose messages are incomplete is not recovered');
  answer(3);
  assert.deepStrictEqual((await late).missedPackets, ['late']);
  sessions.stop();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
