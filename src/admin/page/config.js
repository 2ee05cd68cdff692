// Configuration: which file is in use and since when, what is wrong with it, limits, certificates, and the log level.
import { useState } from 'preact/hooks'
import * as api from './api.js'
import { Act, Badge, Bar, Command, Head, html, Icon, useEvery, useStore } from './ui.js'
import { lookAtCertificates } from './certificates.js'
import { run } from './dialogs.js'
import { fullness } from './headline.js'
import { look } from './live.js'
import { Waiting } from './overview.js'
import { bytes, clock, count, rate, shell, span } from './words.js'

export function Configuration() {
  const store = useStore()
  const [log, setLog] = useState(null)
  const loadLog = async () => {
    try {
      setLog(await api.log())
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error
    }
  }
  useEvery(30, () => { lookAtCertificates(); loadLog() })
  const { status } = store
  if (!status) return html`<${Head} title="Configuration" /><${Waiting} />`
  const { config, process } = status
  const now = Date.now()
  const line = config.file ? `stickyd reload --config ${shell(config.file)}` : 'stickyd reload'
  return html`<${Head} title="Configuration"><${Act} tone="primary" line=${line} onClick=${reload}>Reload<//><//>
    ${config.error && html`<section class="card bad"><h2><${Icon} name="warn" /> The edited file is not in use</h2>
      <pre class="errors">${config.error}</pre>${config.file && html`<${Command} line=${`stickyd check ${shell(config.file)}`} />`}</section>`}
    ${config.needs_restart.length > 0 && html`<p class="hint info"><${Icon} name="info" /> Changed in the file, and in use only after a restart: ${config.needs_restart.join(', ')}</p>`}
    <div class="columns two">
      <section class="card"><h2>File</h2><dl class="facts long">
        <dt>Path</dt><dd><code>${config.file ?? 'none: started with --listen and --worker'}</code></dd>
        <dt>State</dt><dd>${config.error ? html`<${Badge} tone="warn" icon="warn">errors<//>` : html`<${Badge} tone="good" icon="check">in use<//>`}</dd>
        <dt>Generation</dt><dd>${config.generation}</dd>
        <dt>Loaded</dt><dd>${clock(Date.parse(config.loaded_at), now)}, ${span((now - Date.parse(config.loaded_at)) / 1000)} ago</dd>
        <dt>Listeners</dt><dd>${status.listeners.map((one) => html`<code>${one}</code> `)}</dd></dl></section>
      <section class="card"><h2>stickyd</h2><dl class="facts long">
        <dt>Version</dt><dd>${status.version}</dd><dt>Process</dt><dd>${status.pid}</dd><dt>Running for</dt><dd>${span(status.uptime_s)}</dd>
        ${process && html`<dt>CPU</dt><dd>${process.cpu_percent == null ? '–' : `${rate(process.cpu_percent)} %`}</dd><dt>Memory</dt><dd>${bytes(process.memory_bytes)}</dd>`}
        <dt>Client connections</dt><dd>${count(status.client_connections)}</dd><dt>Log lines dropped</dt><dd>${count(status.log_lines_dropped)}</dd></dl></section>
      <section class="card"><h2>Limits</h2><ul class="full">${fullness(status).map((one) => {
        const share = one.held / one.limit
        const format = one.bytes ? bytes : count
        return html`<li><span>${one.name}</span><span class="number">${format(one.held)} of ${format(one.limit)}</span>
          <${Bar} share=${share} tone=${share >= 0.9 ? 'bad' : share >= 0.7 ? 'warn' : 'accent'} label=${one.name} /></li>`
      })}</ul></section>
      <section class="card"><h2>Certificates</h2>${store.certificates.length === 0 && html`<p class="why">stickyd has none: TLS ends in front of it, or is not used.</p>`}
        <ul class="lines">${store.certificates.toSorted((a, b) => a.ends - b.ends).map((one) => html`<li><span>${one.name}</span>
          <${Badge} tone=${one.ends < now ? 'bad' : one.ends - now < 14 * 86_400_000 ? 'warn' : 'good'} icon=${one.ends - now < 14 * 86_400_000 ? 'warn' : 'check'}>${one.ends < now ? 'expired' : `${span((one.ends - now) / 1000)} left`}<//></li>`)}</ul></section>
      ${log && html`<${Log} key=${`${log.level} ${log.from}`} log=${log} after=${loadLog} />`}
    </div>`
}

function Log({ log, after }) {
  const [level, setLevel] = useState(log.level)
  const put = async (to) => { if (await run(() => api.setLog(to), (said) => `The log level is ${said.level}.`)) after() }
  return html`<section class="card"><h2>Log level</h2>
    <p class="why">In use: <code>${log.level}</code>, from ${log.from}; the file says <code>${log.file}</code>.</p>
    <form class="line" onSubmit=${(event) => { event.preventDefault(); put(level) }}>
      <label class="long"><span class="hidden">Log level</span><input value=${level} onInput=${(event) => setLevel(event.target.value)} spellcheck="false" list="levels" /></label>
      <datalist id="levels">${['error', 'warn', 'info', 'debug', 'info,stickyd::affinity=debug'].map((one) => html`<option value=${one} />`)}</datalist>
      <${Act} line=${`stickyd log ${shell(level)}`}>Set<//>
      ${log.level !== log.file && html`<${Act} type="button" line="stickyd log --reset" onClick=${() => put(null)}>As in the file<//>`}</form></section>`
}

async function reload() {
  const words = (said) => (said.needs_restart.length ? `Reloaded; ${said.needs_restart.join(', ')} need a restart.` : 'Reloaded.')
  await run(api.reload, words)
  look()
}
