// Overview: the state in one sentence, the numbers of now, and the charts of the last minutes or hours.
import { html, Badge, Bar, Command, Empty, Head, Icon, useEvery, useStore } from './ui.js'
import { Chart, Spark } from './charts.js'
import { fullness, headline, sentenceOf } from './headline.js'
import { link } from './routes.js'
import { add, newest } from './rings.js'
import { byAttention, fullName, isUnused, stateOf } from './workerstate.js'
import { bytes, clock, count, ms, plural, rate, span } from './words.js'
import { serialOf } from './store.js'
import { setRange } from './live.js'
import { lookAtCertificates } from './certificates.js'
import { EventRow } from './events.js'

/** Workers with a line of their own in the chart; the others are one line. */
const LINES = 7

const ICON = { bad: 'cross', warn: 'warn', info: 'info', good: 'check' }

export function Overview({ theme }) {
  const store = useStore()
  useEvery(60, lookAtCertificates)
  if (!store.workers || !store.status) return html`<${Head} title="Overview" /><${Waiting} />`
  const now = Date.now()
  const used = store.workers.filter((worker) => !isUnused(worker))
  const held = store.status.sockets.held
  const requests = store.recent && newest(store.recent.total('requests_per_s'))
  const live = `${plural(held, 'socket')} ${held === 1 ? 'is' : 'are'} open, with ${rate(requests)} ${requests === 1 ? 'request' : 'requests'} per second.`
  const said = headline({ ...store, live, refused: store.recent?.refusals().forwarded ?? 0, now })
  return html`<${Head} title="Overview"><${Ranges} range=${store.range} /><//>
    <${Headline} said=${said} now=${now} />
    <${Tiles} store=${store} used=${used} />
    <${Charts} store=${store} theme=${theme} used=${used} />
    <div class="columns">
      <${Attention} workers=${used} store=${store} />
      <${Limits} status=${store.status} certificates=${store.certificates} now=${now} />
      <${Recent} events=${store.events} now=${now} />
    </div>`
}

export const Waiting = () => html`<div class="waiting" role="status"><span></span><span></span><span></span><p>Asking stickyd…</p></div>`

function Headline({ said, now }) {
  return html`<section class="headline ${said.level}" aria-label="State">
    <span class="mark"><${Icon} name=${ICON[said.level]} size="26" /></span>
    <div class="said">
      <p class="first" role="status">${said.title}</p>
      ${said.since != null && html`<p class="since"><${Icon} name="clock" size="14" /> since ${clock(said.since, now)}</p>`}
      ${said.detail && html`<p class="detail">${said.detail}</p>`}
      ${said.command && html`<${Command} line=${said.command} />`}
      ${said.route && html`<p><a class="go" href=${link(...split(said.route))}>Show details</a></p>`}
      ${said.others.length > 0 && html`<ul class="others">${said.others.slice(0, 6).map((one) => html`<li class=${one.level}>
        <${Icon} name=${ICON[one.level]} size="14" /><span>${sentenceOf(one, now)}</span>
        ${one.route && html`<a href=${link(...split(one.route))} aria-label=${`Details: ${one.what}`}>Details</a>`}</li>`)}
        ${said.others.length > 6 && html`<li><span></span><span>and ${said.others.length - 6} more</span></li>`}</ul>`}
    </div></section>`
}

const split = ([view, ...rest]) => [view, rest]

function Ranges({ range }) {
  return html`<div class="switch" role="group" aria-label="Range of the charts">
    ${['5m', '1h', '24h'].map((one) => html`<button aria-pressed=${one === range} onClick=${() => setRange(one)}>${one.replace('m', ' min').replace('h', ' h')}</button>`)}</div>`
}

function Tile({ label, value, note, values, tone, href, children }) {
  return html`<a class="tile" href=${href}><span class="label">${label}</span><span class="value">${value}</span>
    <span class="note">${note}</span>${values && html`<${Spark} values=${values} tone=${tone} />`}${children}</a>`
}

function Tiles({ store, used }) {
  const { recent, status } = store
  const sessions = used.reduce((all, worker) => all + worker.sessions, 0)
  const up = used.filter((worker) => worker.takes_new).length
  const sum = (field) => recent?.total(field)
  const [requests, failures, opened, closed] = ['requests', 'failures', 'opened', 'closed'].map((name) => sum(`${name}_per_s`))
  const trips = recent?.trips()
  const { own, healed, forwarded } = recent?.refusals() ?? {}
  const now = (values) => values && newest(values)
  const sockets = recent && add([...recent.workers.keys()].map((serial) => recent.sockets(serial)), recent.steps)
  return html`<div class="tiles">
    <${Tile} label="Sockets" value=${count(status.sockets.held)} note=${plural(sessions, 'session')} values=${sockets} href=${link('sockets')} />
    <${Tile} label="Workers" value=${`${up} of ${used.length}`} note="take new sessions" href=${link('workers')}>
      <span class="states">${byAttention(used).slice(0, 40).map((worker) => html`<i class=${stateOf(worker).tone}></i>`)}</span><//>
    <${Tile} label="Requests per s" value=${rate(now(requests))} note=${`${rate(now(failures))} failures`} values=${requests} href=${link('workers')} />
    <${Tile} label="Opened per s" value=${rate(now(opened))} note=${`${rate(now(closed))} closed`} values=${opened} href=${link('sockets', [], { sort: '-connected' })} />
    <${Tile} label="Round trip, p95" value=${ms(now(trips?.p95))} note=${now(trips?.p50) == null ? 'no ping measured' : `median ${ms(now(trips.p50))}`} values=${trips?.p95} href=${link('sockets')} />
    <${Tile} label="Refusals, 5 min" value=${count(forwarded)} note=${`${count(healed)} healed, ${count(own)} own`} values=${sum('refusals_per_s')} tone="warn" href=${link('events')} />
  </div>`
}

function Charts({ store, theme, used }) {
  const { rings } = store
  if (!rings) return null
  const known = used.map((worker) => ({ worker, serial: serialOf(worker) })).filter(({ serial }) => rings.workers.has(serial))
  const alone = known.slice(0, known.length > LINES + 1 ? LINES : LINES + 1)
  const series = alone.map(({ worker, serial }, i) => ({ label: fullName(worker), values: rings.sockets(serial), color: `c${i + 1}` }))
  const others = known.slice(alone.length)
  if (others.length) series.push({ label: `${others.length} others`, values: add(others.map(({ serial }) => rings.sockets(serial)), rings.steps), color: 'c8' })
  const trips = rings.trips()
  return html`<div class="charts">
    <${Chart} title="Sockets by worker" times=${rings.times} series=${series} stacked format=${count} theme=${theme} />
    <${Chart} title="Sockets opened and closed per second" times=${rings.times} mirrored format=${rate} theme=${theme} series=${[
      { label: 'opened', values: rings.total('opened_per_s'), color: 'c1' },
      { label: 'closed', values: rings.total('closed_per_s').map((one) => -one), color: 'c4' }]} />
    <${Chart} title="Requests and failures per second" times=${rings.times} format=${rate} theme=${theme} series=${[
      { label: 'requests', values: rings.total('requests_per_s'), color: 'c2' },
      { label: 'failures', values: rings.total('failures_per_s'), color: 'bad', dash: true }]} />
    <${Chart} title="Round trip of pings" times=${rings.times} format=${ms} theme=${theme} empty="No ping measured in this time" series=${[
      { label: '95th percentile', values: trips.p95, color: 'c3' },
      { label: 'median', values: trips.p50, color: 'c1', dash: true }]} />
  </div>`
}

function Attention({ workers, store }) {
  const first = byAttention(workers).slice(0, 8)
  return html`<section class="card"><h2><a href=${link('workers')}>Workers</a></h2>
    ${first.length === 0 && html`<${Empty} title="No worker yet">Workers appear here when they first listen.<//>`}
    <ul class="lines">${first.map((worker) => {
      const state = stateOf(worker)
      return html`<li key=${fullName(worker)}><a href=${link('workers', [worker.upstream, worker.worker])}>${fullName(worker)}</a>
        <${Badge} tone=${state.tone} icon=${state.icon}>${state.word}<//>
        <span class="number">${plural(Math.max(worker.sessions, worker.tunnels), 'socket')}</span></li>`
    })}</ul>
    ${workers.length > first.length && html`<p class="more"><a href=${link('workers')}>All ${workers.length} workers</a></p>`}</section>`
}

function Limits({ status, certificates, now }) {
  const nearest = certificates.toSorted((a, b) => a.ends - b.ends)[0]
  const { config } = status
  return html`<section class="card"><h2><a href=${link('config')}>Limits and configuration</a></h2>
    <ul class="full">${fullness(status).map((one) => {
      const share = one.held / one.limit
      const format = one.bytes ? bytes : count
      return html`<li key=${one.name}><span>${one.name}</span><span class="number">${format(one.held)} of ${format(one.limit)}</span>
        <${Bar} share=${share} tone=${share >= 0.9 ? 'bad' : share >= 0.7 ? 'warn' : 'accent'} label=${one.name} /></li>`
    })}</ul>
    <dl class="facts">
      <dt>Configuration</dt><dd>${config.error ? html`<${Badge} tone="warn" icon="warn">errors in the file<//>` : html`<${Badge} tone="good" icon="check">generation ${config.generation}<//>`}</dd>
      <dt>Nearest certificate</dt><dd>${nearest ? `${nearest.name}: ${nearest.ends > now ? `${span((nearest.ends - now) / 1000)} left` : 'expired'}` : 'none'}</dd>
      <dt>Running for</dt><dd>${span(status.uptime_s)}</dd>
    </dl></section>`
}

function Recent({ events, now }) {
  const last = events.slice(-7).reverse()
  return html`<section class="card"><h2><a href=${link('events')}>Latest events</a></h2>
    ${last.length === 0 && html`<${Empty} title="Nothing has happened yet">Deaths, drains, reloads and orders appear here.<//>`}
    <ol class="events short">${last.map((event) => html`<${EventRow} key=${event.id} event=${event} now=${now} />`)}</ol></section>`
}

