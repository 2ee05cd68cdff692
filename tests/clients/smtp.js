// A real mail server (smtp-server) that keeps nothing: prints {"port"} and one line per mail, as mailparser reads it.
// Argument: JSON with "secure" (TLS from the first byte), "cert" and "key" (files, which also allow STARTTLS), "user" and
// "pass" (then a login is needed), "answer" (an SMTP code for the first mails), "times" (how many), "hang" (true: the
// answer to the mail never comes).
'use strict';
const fs = require('fs');
const { SMTPServer } = require('smtp-server');
const { simpleParser } = require('mailparser');

const options = JSON.parse(process.argv[2] || '{}');
const say = (value) => process.stdout.write(JSON.stringify(value) + '\n');
let refusals = options.answer ? options.times ?? 1 : 0;

const files = options.cert ? { cert: fs.readFileSync(options.cert), key: fs.readFileSync(options.key) } : {};
const server = new SMTPServer({
  ...files,
  secure: Boolean(options.secure),
  authOptional: !options.user,
  // Without a certificate of its own the server would offer STARTTLS with a built-in one.
  disabledCommands: options.cert ? [] : ['STARTTLS'],
  allowInsecureAuth: true,
  onAuth({ username, password }, session, done) {
    const fits = username === options.user && password === options.pass;
    say({ login: username, fits, tls: Boolean(session.secure) });
    const error = Object.assign(new Error('Invalid user name or password'), { responseCode: 535 });
    done(fits ? null : error, { user: username });
  },
  onData(stream, session, done) {
    simpleParser(stream).then((mail) => {
      const code = refusals > 0 ? options.answer : 250;
      refusals -= 1;
      say({
        code,
        tls: Boolean(session.secure),
        user: session.user ?? null,
        from: mail.from.text,
        to: mail.to.text,
        subject: mail.subject,
        text: mail.text,
        id: mail.messageId,
        auto: mail.headers.get('auto-submitted') ?? null,
      });
      if (options.hang) return;
      if (code === 250) done();
      else done(Object.assign(new Error('try again later'), { responseCode: code }));
    });
  },
});
server.on('error', () => {});
server.listen(0, '127.0.0.1', () => say({ port: server.server.address().port }));
process.stdin.on('end', () => process.exit(0)).resume();
