// Drives a real Chromium: one command per line of stdin, as JSON; one answer per line of stdout. Ends with its stdin.
// `--chromium PATH` names another program than /usr/bin/chromium.
//
//   {"do":"open","url":…,"scheme":"dark","width":320,"height":700}   a new page in place of the one before
//   {"do":"see","at":SELECTOR,"text":…}   waits until an element is visible and has the text; its text, and how long
//   {"do":"gone","at":SELECTOR,"text":…}  waits until no element with the text is visible
//   {"do":"click","at":SELECTOR,"text":…} {"do":"fill","at":SELECTOR,"value":…} {"do":"press","keys":["g","w"]}
//   {"do":"run","code":"document.title"}  the value of an expression in the page
//   {"do":"axe"}                          what axe-core finds
//   {"do":"report"}                       requests to other origins, violations of the policy, errors of scripts
//   {"do":"hide","hidden":true}           tells the page that its tab is hidden
import readline from 'node:readline'
import { createRequire } from 'node:module'
import { chromium } from 'playwright-core'

/** Time that an element may need; a test that reaches it has failed. */
const PATIENCE = 30_000

const ARGUMENTS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage']

const axe = createRequire(import.meta.url)('axe-core').source

/** Starts Chromium, with a list of what a page must not do. */
export async function launch(program = '/usr/bin/chromium') {
  const browser = await chromium.launch({ executablePath: program, args: ARGUMENTS })
  return new Driver(browser)
}

class Driver {
  constructor(browser) {
    this.browser = browser
    this.seen = { foreign: [], violations: [], errors: [], requests: 0 }
    this.context = null
  }

  async open({ url, scheme = 'light', width = 1280, height = 900, motion = 'reduce' }) {
    await this.context?.close()
    this.context = await this.browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: motion })
    const { seen } = this
    await this.context.exposeBinding('violated', (_, what) => { seen.violations.push(what) })
    await this.context.addInitScript(() => addEventListener('securitypolicyviolation',
      (event) => globalThis.violated(`${event.violatedDirective}: ${event.blockedURI}`)))
    this.page = await this.context.newPage()
    const { origin } = new URL(url)
    this.page.on('request', (request) => {
      seen.requests += 1
      const asked = new URL(request.url())
      if (asked.protocol !== 'data:' && asked.origin !== origin) seen.foreign.push(request.url())
    })
    this.page.on('pageerror', (error) => seen.errors.push(error.stack ?? String(error)))
    this.page.on('console', (message) => {
      if (/Content Security Policy/i.test(message.text())) seen.violations.push(message.text())
    })
    await this.page.goto(url)
    return {}
  }

  find({ at, text }) {
    const all = this.page.locator(at)
    return (text === undefined ? all : all.filter({ hasText: text })).filter({ visible: true }).first()
  }

  async see(command) {
    const since = performance.now()
    const found = this.find(command)
    await found.waitFor({ state: 'visible', timeout: PATIENCE })
    return { text: await found.innerText(), ms: performance.now() - since }
  }

  async gone(command) {
    const since = performance.now()
    await this.find(command).waitFor({ state: 'detached', timeout: PATIENCE })
    return { ms: performance.now() - since }
  }

  async click(command) {
    await this.find(command).click({ timeout: PATIENCE })
    return {}
  }

  async fill(command) {
    await this.find(command).fill(command.value, { timeout: PATIENCE })
    return {}
  }

  async press({ keys }) {
    for (const key of keys) await this.page.keyboard.press(key)
    return {}
  }

  async run({ code }) {
    return { value: await this.page.evaluate(code) }
  }

  async hide({ hidden }) {
    await this.page.evaluate((to) => {
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => to })
      document.dispatchEvent(new Event('visibilitychange'))
    }, hidden)
    return {}
  }

  async axe() {
    await this.page.evaluate(axe)
    const { violations, passes } = await this.page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }))
    const told = ({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html}: ${failureSummary}`).join('; ')}`
    return { passes: passes.length, violations: violations.map(told) }
  }

  async report() {
    return { report: this.seen }
  }

  async screenshot({ path, whole = false }) {
    await this.page.screenshot({ path, fullPage: whole })
    return {}
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const at = process.argv.indexOf('--chromium')
  const driver = await launch(at < 0 ? undefined : process.argv[at + 1])
  const known = ['open', 'see', 'gone', 'click', 'fill', 'press', 'run', 'hide', 'axe', 'report', 'screenshot']
  console.log(JSON.stringify({ ready: true }))
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    let answer
    try {
      if (!known.includes(command.do)) throw new Error(`no such command: ${command.do}`)
      answer = await driver[command.do](command)
    } catch (error) {
      const shown = await driver.page?.locator('body').innerText().catch(() => '') ?? ''
      answer = { error: String(error.stack ?? error), url: driver.page?.url(), shown: shown.slice(0, 3000), report: driver.seen }
    }
    console.log(JSON.stringify(answer))
  }
  await driver.browser.close()
}
