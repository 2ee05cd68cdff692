// Everything about one socket, at the side: legs, codes, labels, and its closing.
import { useEffect, useRef, useState } from 'preact/hooks'
import * as api from './api.js'
import { Act, Badge, Command, html, Icon, useEvery } from './ui.js'
import { Buttons, open } from './dialogs.js'
import { link } from './routes.js'
import { write } from './search.js'
import { bytes, count, ms, shell, span } from './words.js'

export function Drawer({ id, close, gone }) {
  const [one, setOne] = useState(null)
  const [error, setError] = useState(null)
  const head = useRef(null)
  useEffect(() => {
    head.current?.focus()
    drawn = { close, act: () => askClose(id, gone) }
    return () => { drawn = null }
  })
  useEvery(2, async () => {
    try {
      setOne(await api.socket(id))
    } catch (failed) {
      if (!(failed instanceof api.ApiError)) throw failed
      if (failed.status) setError(failed.status === 404 ? 'This socket has ended.' : failed.message)
    }
  }, [id])
  return html`<aside class="drawer" aria-label=${`Socket ${id}`}>
    <header><h2 ref=${head} tabindex="-1">Socket ${id}</h2><button class="quiet" onClick=${close} aria-label="Close these details"><${Icon} name="close" /></button></header>
    ${error && html`<p class="hint warn" role="status"><${Icon} name="info" /> ${error}</p>`}
    ${one && html`<${Details} one=${one} />`}
    ${one && !error && html`<div class="orders"><${Act} tone="danger" line=${`stickyd close ${shell(id)}`} onClick=${() => askClose(id, gone)}>Close this socket…<//></div>`}
  </aside>`
}

/** What the keys act on while a drawer is open. */
let drawn = null
export const current = () => drawn

function Details({ one }) {
  const leg = (name, measured) => [name, measured ? `${ms(measured.smoothed_ms)}, last ${ms(measured.last_ms)}, longest ${ms(measured.longest_ms)}` : 'not measured']
  const way = (name, traffic) => [name, `${count(traffic.messages)} messages, ${bytes(traffic.bytes)}${traffic.idle_s == null ? '' : `, last ${span(traffic.idle_s)} ago`}${traffic.close_code == null ? '' : `, Close ${traffic.close_code}`}`]
  const facts = [
    ['Client', html`<a href=${link('sockets', [], { q: write({ address: one.address }) })}>${one.address}</a>`],
    ['User agent', one.user_agent ?? '–'],
    ['Worker', html`<a href=${link('workers', [one.upstream, one.worker])}>${one.upstream}/${one.worker}</a>, life ${one.generation}`],
    ['Route', one.route ?? '–'],
    ['Session id', html`<code>${one.sid ?? '–'}</code>`],
    ['Protocol', `${one.protocol} by ${one.transport}${one.tls ? ' over TLS' : ''}`],
    ['Connected', `${one.connected_at.replace('T', ' ').replace('Z', ' UTC')}, ${span(one.age_s)} ago`],
    way('From the client', one.up),
    way('To the client', one.down),
    leg('Round trip to the client', one.round_trip.client),
    leg('Round trip to the worker', one.round_trip.worker),
    ['Quality', one.quality ?? 'not known'],
  ]
  return html`<p><${Badge} tone=${one.state === 'open' ? 'good' : 'warn'}>${one.state}<//></p>
    <dl class="facts long">${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}
      ${Object.entries(one.labels).map(([name, value]) => html`<dt>${name}</dt><dd><a href=${link('sockets', [], { q: write({ [`label.${name}`]: value }) })}>${value}</a></dd>`)}</dl>
    ${one.sid && html`<p><a class="go" href=${link('explain', [], { q: one.sid, upstream: one.upstream })}>Explain this session</a></p>`}`
}

/** Asks before one socket is closed. */
export function askClose(id, gone) {
  open(`Close socket ${id}`, ({ close }) => {
    const [order, setOrder] = useState({ code: '1012', reason: '' })
    const body = () => ({ code: Number(order.code) || 0, ...(order.reason ? { reason: order.reason } : {}) })
    const line = `stickyd close ${shell(id)} --code ${shell(order.code)}${order.reason ? ` --reason ${shell(order.reason)}` : ''}`
    return html`<p>A WebSocket gets a Close frame, a polling session a refusal. The client may connect again.</p>
      <div class="form"><label>Close code<input inputmode="numeric" value=${order.code} onInput=${(event) => setOrder({ ...order, code: event.target.value })} /></label>
        <label class="long">Reason, for the client<input value=${order.reason} maxlength="120" onInput=${(event) => setOrder({ ...order, reason: event.target.value })} /></label></div>
      <${Command} line=${line} note="The same on the command line:" />
      <${Buttons} close=${close} tone="danger" label="Close the socket" order=${() => api.closeSocket(id, body())} done=${`Socket ${id} is closed.`} after=${gone} />`
  })
}
