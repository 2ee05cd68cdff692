// Two people in the chat of examples/chat, each in a window of a real Chromium: `node chat_browsers.mjs URL`. Each line of
// stdin is a message that the first one types and sends. Once both pages show it, a JSON line says what they show. After
// the line `moved`, both pages are waited for until they have a new session: meanwhile they would miss what is said.
// CHROMIUM names the program; tests/run installs Debian's.
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [url] = process.argv.slice(2);
const print = (event, fields) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'], // root has no sandbox; CI has little /dev/shm
});
const errors = [];

async function open(name) {
  const page = await (await browser.newContext()).newPage();
  page.on('dialog', (dialog) => dialog.accept(name));
  page.on('pageerror', (error) => errors.push(`${name}: ${error.message}`));
  await page.goto(url);
  return page;
}

const pages = [await open('ann'), await open('bob')];
const shows = (page, selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor({ timeout: 25_000 });
for (const page of pages) {
  await page.waitForFunction(() => /^Here: (ann, bob|bob, ann)$/.test(document.getElementById('present').textContent), null, { timeout: 25_000 });
}
const ids = () => Promise.all(pages.map((page) => page.evaluate(() => socket.id)));
let before = await ids();
print('present', { pages: await Promise.all(pages.map((page) => page.locator('#present').textContent())) });
for await (const text of createInterface({ input: process.stdin })) {
  if (text === 'moved') {
    const isNew = (id) => socket.connected && socket.id !== id;
    await Promise.all(pages.map((page, n) => page.waitForFunction(isNew, before[n], { timeout: 25_000 })));
    before = await ids();
    print('moved', {});
    continue;
  }
  const [ann, bob] = pages;
  await ann.locator('#text').pressSequentially(text);
  await shows(bob, '#typing', 'ann is typing …');
  await ann.locator('#text').press('Enter');
  for (const page of pages) await shows(page, '#list li', `ann: ${text}`);
  const lines = await Promise.all(pages.map((page) => page.locator('#list li').allTextContents()));
  const badge = await bob.locator('#typing').textContent();
  print('messages', { lines, typing: badge, errors });
}
await browser.close();
process.exit(0);
