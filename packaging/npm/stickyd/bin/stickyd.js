#!/usr/bin/env node
// Starts the binary of this platform with the same arguments, in the place of this process where Node.js can do that.
'use strict';
const { spawn } = require('node:child_process');

let binary;
try {
  binary = require('../lib/index.cjs').binary();
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
const args = process.argv.slice(2);
// npx and npm start a shell between themselves and this process, and that passes no signal on.
const isOfNpm = Boolean(process.env.npm_command);
// Node.js 22.15 and later: no second process, so signals, exit codes and the terminal are those of stickyd itself.
if (process.execve && !isOfNpm) process.execve(binary, ['stickyd', ...args], process.env);

const child = spawn(binary, args, { stdio: 'inherit', argv0: 'stickyd' });
child.on('error', (error) => {
  console.error(`stickyd: cannot start ${binary}: ${error.message}`);
  process.exit(1);
});
for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2']) {
  process.on(signal, () => {
    // The terminal sends Ctrl-C to both processes, and a second SIGINT would stop stickyd without a drain.
    const isOfTerminal = signal === 'SIGINT' && process.stdin.isTTY;
    if (!isOfTerminal) child.kill(signal);
  });
}
if (isOfNpm) {
  const parent = process.ppid;
  // When npx is stopped, its shell ends, and this process gets another parent.
  const watch = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(watch);
    child.kill('SIGTERM');
  }, 500);
}
child.on('exit', (code, signal) => {
  if (!signal) process.exit(code);
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});
