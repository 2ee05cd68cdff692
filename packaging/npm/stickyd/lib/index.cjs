// Finds the binary of this platform.
'use strict';

const { arch, platform } = process;

/** Path of the binary: STICKYD_BINARY, else the one of the package for this platform. */
exports.binary = () => {
  if (process.env.STICKYD_BINARY) return process.env.STICKYD_BINARY;
  const name = `@stickyd/${platform}-${arch}${isMusl() ? '-musl' : ''}`;
  try {
    return require.resolve(`${name}/bin/stickyd`);
  } catch {
    const why =
      platform === 'linux'
        ? `the package ${name} is not installed: install without --omit=optional, or set STICKYD_BINARY`
        : 'stickyd runs on Linux only; elsewhere use its container image';
    throw new Error(`stickyd: ${why}`);
  }
};

/** Path of the script that links a Node.js worker to the bus, for NODE_OPTIONS=--require. */
exports.busPreload = require('node:path').join(__dirname, 'bus.cjs');

// Node.js names the version of glibc that it runs with; with musl there is none.
function isMusl() {
  return platform === 'linux' && !process.report?.getReport().header.glibcVersionRuntime;
}
