// Events: what happened, newest first, by kind, upstream and worker.
import { useState } from 'preact/hooks'
import { Empty, Head, html, Icon, useStore } from './ui.js'
import { go } from './main.js'
import { link } from './routes.js'
import { clock, plural, sentence, span } from './words.js'

/** Rows that are drawn. */
const ROWS = 400

const TONES = { error: 'bad', warning: 'warn', info: 'info' }
const ICONS = { bad: 'cross', warn: 'warn', good: 'check', info: 'info' }

/** Kinds that are good news, although their line in the log is an ordinary one. */
const GOOD = new Set(['worker_up', 'worker_back', 'upstream_back', 'certificate_renewed', 'config_reloaded', 'ready', 'drain_done'])

export const toneOf = (event) => (GOOD.has(event.kind) ? 'good' : TONES[event.severity] ?? 'info')

const title = (kind) => kind.replaceAll('_', ' ')

/** One event as a line. */
export function EventRow({ event, now }) {
  const tone = toneOf(event)
  const place = event.worker ? `${event.upstream}/${event.worker}` : event.upstream
  return html`<li class=${tone}><span class="dot ${tone}"><${Icon} name=${ICONS[tone]} size="12" /></span>
    <time datetime=${new Date(event.at).toISOString()} title=${`${span((now - event.at) / 1000)} ago`}>${clock(event.at, now)}</time>
    <span class="what"><b>${sentence(title(event.kind))}</b>${place && html` ${event.worker ? html`<a href=${link('workers', [event.upstream, event.worker])}>${place}</a>` : place}`}
      <span class="text">${event.text}</span></span></li>`
}

export function Events({ route }) {
  const store = useStore()
  const [held, setHeld] = useState(null)
  const { q = '', kind = '', upstream = '', tone = '' } = route.query
  const all = held ?? store.events
  const words = q.toLowerCase()
  const fits = (event) =>
    (!kind || event.kind === kind) && (!upstream || event.upstream === upstream) && (!tone || toneOf(event) === tone)
    && (!words || `${event.kind} ${title(event.kind)} ${event.upstream}/${event.worker} ${event.text}`.toLowerCase().includes(words))
  const shown = all.filter(fits)
  const to = (query) => go(link('events', [], { q, kind, upstream, tone, ...query }), true)
  const kinds = [...new Set(store.events.map((event) => event.kind))].sort()
  const upstreams = [...new Set([...(store.workers ?? []).map((worker) => worker.upstream), ...store.events.map((event) => event.upstream)])].filter(Boolean).sort()
  const late = held ? store.events.length - held.length : 0
  const choice = (label, name, value, values) => html`<label class="pick"><span class="hidden">${label}</span>
    <select value=${value} onChange=${(event) => to({ [name]: event.target.value })} aria-label=${label}><option value="">${label}: all</option>${values.map((one) => html`<option value=${one}>${name === 'upstream' ? one : title(one)}</option>`)}</select></label>`
  return html`<${Head} title="Events">
      <label class="search"><${Icon} name="search" /><span class="hidden">Search events</span><input type="search" id="search" placeholder="Worker or words" value=${q} onInput=${(event) => to({ q: event.target.value })} /></label>
      ${choice('Kind', 'kind', kind, kinds)}${choice('Upstream', 'upstream', upstream, upstreams)}${choice('Severity', 'tone', tone, ['bad', 'warn', 'good', 'info'])}
      <button aria-pressed=${!held} onClick=${() => setHeld(held ? null : store.events)}>${held ? `Follow${late > 0 ? ` (${late} new)` : ''}` : 'Following'}</button>
    <//>
    <p class="summary">${plural(shown.length, 'event')}${shown.length < all.length ? ` of ${all.length}` : ''}; stickyd keeps the last 1,024. On the command line: <code>stickyd events --follow</code></p>
    ${shown.length === 0 && html`<${Empty} title="No event to show">${all.length ? 'No event matches the search.' : 'Deaths, drains, reloads and orders appear here.'}<//>`}
    <ol class="events card">${shown.slice(-ROWS).reverse().map((event) => html`<${EventRow} key=${event.id} event=${event} now=${Date.now()} />`)}</ol>
    ${shown.length > ROWS && html`<p class="summary">The newest ${ROWS} are shown.</p>`}`
}

