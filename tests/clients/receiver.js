// Plays the receivers of notifications: Discord, Slack, ntfy and a webhook, by the first part of the path. Each refuses
// what the real one refuses, so a message that is empty or too long is a failed test and not a passed one.
//
// Prints {"port"} and then one line per request: path, method, headers, body, the answer's status, and "wrong": why the
// real receiver would refuse it, or null. Commands on stdin, one per line: {"answer": STATUS, "retry_after": S,
// "header": TEXT, "body": TEXT, "times": N} sets the next answers; 0 is silence.
'use strict';
const http = require('http');
const readline = require('readline');

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n');
let planned = [];

// Discord counts UTF-16 units, as JavaScript does.
function discord(headers, body) {
  if (!/^application\/json/.test(headers['content-type'] || '')) return 'content type';
  const { embeds, content } = JSON.parse(body);
  if (!content && !(embeds && embeds.length)) return 'Cannot send an empty message (50006)';
  let all = 0;
  for (const { title = '', description = '' } of embeds || []) {
    if (!description.trim()) return 'an embed without a description';
    if (title.length > 256 || description.length > 4096) return 'an embed that is too long';
    all += title.length + description.length;
  }
  return all > 6000 ? 'embeds with more than 6000 characters' : null;
}

function slack(headers, body) {
  if (!/^application\/json/.test(headers['content-type'] || '')) return 'invalid_payload';
  const { text } = JSON.parse(body);
  if (!text || !text.trim()) return 'no_text';
  return text.length > 4000 ? 'msg_too_long' : null;
}

function ntfy(headers, body) {
  if (!body.trim()) return 'empty';
  if (Buffer.byteLength(body) > 4096) return 'would become an attachment';
  return /^[ -~]+$/.test(headers.title || '') ? null : 'no title in ASCII';
}

function webhook(headers, body) {
  const { title, text, problems } = JSON.parse(body);
  return title && text && Array.isArray(problems) ? null : 'incomplete';
}

const KINDS = { discord, slack, ntfy, webhook, beat: () => null };
const USUAL = { discord: [204, ''], slack: [200, 'ok'], ntfy: [200, '{"id":"x"}'], webhook: [200, ''], beat: [200, 'OK'] };

const server = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const body = Buffer.concat(parts).toString();
    const kind = request.url.split('/')[1];
    let wrong = `there is no ${kind}`;
    try {
      if (KINDS[kind]) wrong = KINDS[kind](request.headers, body);
    } catch (error) {
      wrong = String(error);
    }
    const plan = planned.shift();
    let [status, text] = wrong ? [400, JSON.stringify({ message: wrong })] : USUAL[kind];
    const headers = {};
    if (plan) {
      status = plan.answer;
      text = plan.body ?? '';
      if (plan.retry_after !== undefined) text = JSON.stringify({ message: 'slow down', retry_after: plan.retry_after });
      if (plan.header) headers['retry-after'] = plan.header;
      if (plan.location) headers.location = plan.location;
    }
    say({ path: request.url, method: request.method, headers: request.headers, body, status, wrong, at: Date.now() });
    if (status === 0) return;
    response.writeHead(status, headers);
    response.end(text);
  });
});
server.listen(0, '127.0.0.1', () => say({ port: server.address().port }));

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const plan = JSON.parse(line);
  planned = Array(plan.times ?? 1).fill(plan);
});
lines.on('close', () => process.exit(0));
