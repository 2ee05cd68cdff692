// Run by `stickyd import pm2`: loads PM2's file as PM2 does, and prints its value as JSON after a mark. What the file
// itself prints comes before the mark.
'use strict';
const [file, mark] = process.argv.slice(1);
const load = async () => {
  // PM2 evaluates .json files, so comments and trailing commas are allowed in them.
  if (file.endsWith('.json')) {
    const text = require('node:fs').readFileSync(file, 'utf8');
    return require('node:vm').runInThisContext(`(${text}\n)`, { filename: file });
  }
  try {
    return require(file);
  } catch (error) {
    if (!['ERR_REQUIRE_ESM', 'ERR_REQUIRE_ASYNC_MODULE'].includes(error.code)) throw error;
    return import(require('node:url').pathToFileURL(file));
  }
};
load().then(async (found) => {
  found = found?.default ?? found;
  if (typeof found === 'function') found = await found();
  const plain = (key, value) => (typeof value === 'bigint' ? String(value) : value);
  process.stdout.write(`\n${mark}${JSON.stringify(found, plain) ?? 'null'}\n`, () => process.exit(0));
}).catch((error) => {
  process.stderr.write(`${error?.stack ?? error}\n`, () => process.exit(1));
});
