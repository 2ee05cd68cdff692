// Labels: the values with the most sockets, per upstream and label.
import { useState } from 'preact/hooks'
import * as api from './api.js'
import { Bar, Empty, Head, html, Icon, useEvery, useStore } from './ui.js'
import { set } from './store.js'
import { link } from './routes.js'
import { write } from './search.js'
import { Waiting } from './overview.js'
import { count, plural } from './words.js'

/** Values that are shown at first. */
const FIRST = 12

async function load() {
  try {
    set({ stats: await api.stats() })
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error
  }
}

export function Labels({ route }) {
  const { stats } = useStore()
  useEvery(5, load)
  if (!stats) return html`<${Head} title="Labels" /><${Waiting} />`
  const words = (route.query.q ?? '').toLowerCase()
  const all = stats.upstreams.flatMap((one) => Object.entries(one.labels).map(([name, label]) => ({ upstream: one.upstream, name, live: one.sockets.live, ...label })))
  return html`<${Head} title="Labels">
      <label class="search"><${Icon} name="search" /><span class="hidden">Search values</span><input type="search" id="search" placeholder="Value" value=${route.query.q ?? ''}
        onInput=${(event) => location.replace(link('labels', [], { q: event.target.value }))} /></label><//>
    ${all.length === 0 && html`<${Empty} title="No labels are configured">
      Labels name sockets by what their first request says: a store, a user, a version of the app. Add for example
      <code>labels = { store = "query:store" }</code> to an <code>[upstream.NAME]</code>.<//>`}
    <div class="cards">${all.map((label) => html`<${Label} key=${`${label.upstream} ${label.name}`} label=${label} words=${words} />`)}</div>`
}

function Label({ label, words }) {
  const [all, setAll] = useState(false)
  const values = label.values.filter(({ value }) => value.toLowerCase().includes(words))
  const most = Math.max(1, ...label.values.map((one) => one.sockets))
  return html`<section class="card"><header><h2>${label.name}</h2><span class="number">${label.upstream}</span></header>
    ${values.length === 0 && html`<p class="why">${label.values.length ? 'No value matches.' : 'No live socket has this label.'}</p>`}
    <ul class="values">${values.slice(0, all ? values.length : FIRST).map(({ value, sockets }) => html`<li key=${value}>
      <a href=${link('sockets', [], { q: write({ upstream: label.upstream, [`label.${label.name}`]: value }) })}>${value || '(empty)'}</a>
      <span class="number">${count(sockets)}</span><${Bar} share=${sockets / most} label=${`${value}: ${plural(sockets, 'socket')}`} /></li>`)}</ul>
    ${!all && values.length > FIRST && html`<p class="more"><button class="text" onClick=${() => setAll(true)}>${plural(values.length - FIRST, 'more value')}</button></p>`}
    ${label.others > 0 && html`<p class="why">${plural(label.others, 'socket')} with other values</p>`}</section>`
}
