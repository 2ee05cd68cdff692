// Sockets: the API's list with a search, one socket in a drawer, and the closing of one or of all that match.
import { useEffect, useRef, useState } from 'preact/hooks'
import * as api from './api.js'
import { Badge, Command, Empty, Head, html, Icon, useEvery, useField, useStore } from './ui.js'
import { Buttons, open } from './dialogs.js'
import { go } from './main.js'
import { link } from './routes.js'
import { options, parse, write } from './search.js'
import { Drawer } from './drawer.js'
import { agent, bytes, count, ms, plural, shell, span } from './words.js'

/** Rows per page, and seconds between two looks. */
const ROWS = 50
const EVERY = 3

/** Columns: title, key of the API's `sort`, class. */
const COLUMNS = [
  ['Client', null, ''],
  ['Worker', 'worker', ''],
  ['Transport', null, ''],
  ['State', null, ''],
  ['Age', 'connected', 'number'],
  ['Idle', 'idle', 'number'],
  ['Messages', 'messages', 'number'],
  ['Traffic', 'bytes', 'number'],
  ['Round trip', null, 'number'],
  ['Labels', null, ''],
]

/** Orders for narrow screens, where the heads of the columns are not seen. */
const ORDERS = [['-connected', 'Newest first'], ['connected', 'Oldest first'], ['-messages', 'Most messages first'], ['-bytes', 'Most traffic first'], ['-idle', 'Longest idle first'], ['worker', 'By worker']]

export function Sockets({ route, selection }) {
  const store = useStore()
  const { q = '', sort = '-connected', page = '0' } = route.query
  const chosen = route.rest[0] ?? null
  const [typed, type, sent] = useField(q)
  const [answer, setAnswer] = useState(null)
  const [error, setError] = useState(null)
  const asking = useRef(null)
  const search = parse(q)
  const to = (query, rest = route.rest) => go(link('sockets', rest, { q, sort: sort === '-connected' ? '' : sort, page: page === '0' ? '' : page, ...query }))
  const load = async () => {
    if (search.error) return
    asking.current?.abort()
    const mine = asking.current = new AbortController()
    try {
      const query = { ...search.filter, sort, limit: ROWS, offset: Number(page) * ROWS }
      const said = await api.sockets(query, mine.signal)
      if (asking.current !== mine) return
      setError(null)
      // Rows keep their places while one is selected: only their numbers change.
      setAnswer((before) => (chosen && before?.of === `${q} ${sort} ${page}` ? inPlace(before, said) : { ...said, of: `${q} ${sort} ${page}` }))
    } catch (failed) {
      if (!(failed instanceof api.ApiError)) throw failed
      if (asking.current === mine && failed.status) setError(failed.message)
    }
  }
  useEvery(EVERY, load, [q, sort, page, chosen])
  useEffect(() => { if (search.id) to({ q: '' }, [search.id]) }, [search.id])
  useEffect(() => {
    if (typed === q) return undefined
    const timer = setTimeout(() => {
      sent(typed)
      to({ q: typed, page: '' }, [])
    }, 250)
    return () => clearTimeout(timer)
  }, [typed, q])
  const rows = answer?.sockets ?? []
  // A search that is still being typed goes along, so that it does not close what was opened meanwhile.
  const choose = (id) => to({ q: typed }, [id])
  selection.list(rows.map((one) => one.id), choose)
  const gone = () => {
    to({}, [])
    setTimeout(load, 50)
  }
  const words = search.error ?? error
  return html`<${Head} title="Sockets">
      <label class="search wide"><${Icon} name="search" /><span class="hidden">Search sockets</span>
        <input type="search" id="search" placeholder="label:store=7 worker:w1 min_age:2h" value=${typed} aria-describedby="search-error"
          onInput=${(event) => type(event.target.value)} spellcheck="false" autocomplete="off" autocapitalize="none" /></label>
      <select class="only-narrow" aria-label="Order" value=${sort} onChange=${(event) => to({ sort: event.target.value, page: '' })}>${ORDERS.map(([key, words]) => html`<option value=${key}>${words}</option>`)}</select>
    <//>
    <p id="search-error" class=${words ? 'hint bad' : 'summary'} role="status">${words
      ? html`<${Icon} name="warn" /> ${words}`
      : answer ? `${count(answer.total)} of ${plural(answer.live, 'live socket')}` : 'Asking stickyd…'}
      ${!words && answer && answer.total > 0 && html`${store.access.may === 'operate' ? ' · ' : ''}<${Many} filter=${search.filter} total=${answer.total} after=${gone} access=${store.access} />`}</p>
    ${answer && rows.length === 0 && !words && html`<${Empty} title="No socket matches">${q ? 'Remove a condition of the search.' : 'Sockets appear here when clients connect.'}<//>`}
    ${rows.length > 0 && html`<${Table} rows=${rows} sort=${sort} chosen=${chosen} marked=${selection.marked} to=${to} choose=${choose} />`}
    ${answer && !words && html`<${Pages} answer=${answer} page=${Number(page)} to=${to} />`}
    ${chosen && html`<${Drawer} key=${chosen} id=${chosen} close=${() => to({}, [])} gone=${gone} />`}`
}

/** Puts new numbers into the rows of before; a row that is not in the answer may have ended. */
export function inPlace(before, said) {
  const fresh = new Map(said.sockets.map((one) => [one.id, one]))
  return { ...said, of: before.of, sockets: before.sockets.map((one) => fresh.get(one.id) ?? one) }
}

function Table({ rows, sort, chosen, marked, to, choose }) {
  const turn = (key) => (sort === key ? `-${key}` : sort === `-${key}` ? key : `-${key}`)
  // The newest socket has the lowest age.
  const up = (key) => (sort === key) !== (key === 'connected')
  const order = (key) => (sort === key || sort === `-${key}` ? (up(key) ? 'ascending' : 'descending') : 'none')
  const arrow = { ascending: '↑', descending: '↓', none: '' }
  return html`<div class="scroll"><table class="rows" role="table"><thead role="rowgroup"><tr role="row">${COLUMNS.map(([title, key, kind]) => html`
    <th role="columnheader" scope="col" class=${kind} aria-sort=${key ? order(key) : null}>${key
      ? html`<button class="text" onClick=${() => to({ sort: turn(key), page: '' })}>${title}<span class="order" aria-hidden="true">${arrow[order(key)]}</span></button>`
      : title}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map((one) => html`<${Row} key=${one.id} one=${one} choose=${choose} selected=${one.id === chosen || one.id === marked} />`)}</tbody></table></div>`
}

const TONE = { open: 'good', suspect: 'warn', closing: 'info', draining: 'info' }

function Row({ one, selected, choose }) {
  const cell = (title, kind, children) => html`<td role="cell" class=${kind} data-title=${title}>${children}</td>`
  const idle = Math.min(...[one.up.idle_s, one.down.idle_s].filter((value) => value != null), one.age_s)
  const trip = one.round_trip.client
  return html`<tr role="row" class=${selected ? 'marked' : ''} data-id=${one.id} onClick=${(event) => { if (!event.target.closest('a')) choose(one.id) }}>
    ${cell('Client', 'client', html`<a href=${link('sockets', [one.id])} onClick=${(event) => { event.preventDefault(); choose(one.id) }}>${one.address}</a><small>${agent(one.user_agent)}</small>`)}
    ${cell('Worker', '', `${one.upstream}/${one.worker}`)}
    ${cell('Transport', '', html`${one.transport}${one.tls ? html` <small>TLS</small>` : ''}`)}
    ${cell('State', '', html`<${Badge} tone=${TONE[one.state] ?? 'mute'}>${one.state}<//>`)}
    ${cell('Age', 'number', span(one.age_s))}
    ${cell('Idle', 'number', span(idle))}
    ${cell('Messages', 'number', html`<span title="to stickyd">↑ ${count(one.up.messages)}</span> <span title="to the client">↓ ${count(one.down.messages)}</span>`)}
    ${cell('Traffic', 'number', bytes(one.up.bytes + one.down.bytes))}
    ${cell('Round trip', 'number', trip ? ms(trip.smoothed_ms) : '–')}
    ${cell('Labels', 'labels', Object.entries(one.labels).map(([name, value]) => html`<a class="label" href=${link('sockets', [], { q: write({ [`label.${name}`]: value }) })}>${name}=${value}</a>`))}
  </tr>`
}

function Pages({ answer, page, to }) {
  const last = Math.max(0, Math.ceil(answer.total / ROWS) - 1)
  if (last === 0) return null
  return html`<nav class="pages" aria-label="Pages of the list">
    <button disabled=${page === 0} onClick=${() => to({ page: page - 1 || '' }, [])}>Previous</button>
    <span>Page ${count(page + 1)} of ${count(last + 1)}</span>
    <button disabled=${page >= last} onClick=${() => to({ page: page + 1 }, [])}>Next</button></nav>`
}

/** Closes all sockets that match: how many is asked first. */
function Many({ filter, total, after, access }) {
  const all = Object.keys(filter).length === 0
  const line = `stickyd close ${all ? '--all' : options(filter)} --spread 60s`
  if (access.may !== 'operate') return html`<${Command} line=${line} />`
  return html`<button class="text" onClick=${() => askMany(filter, after)}>Close ${all ? 'all' : `these ${count(total)}`}…</button>`
}

function askMany(filter, after) {
  const all = Object.keys(filter).length === 0
  open(all ? 'Close all sockets' : 'Close all sockets that match', ({ close }) => {
    const [order, setOrder] = useState({ code: '1012', reason: '', spread: '60s' })
    const [dry, setDry] = useState(null)
    const [refusal, setRefusal] = useState(null)
    const body = () => ({
      ...filter, ...(all ? { all: true } : {}), code: Number(order.code) || 0,
      ...(order.reason ? { reason: order.reason } : {}), ...(order.spread ? { spread: order.spread } : {}),
    })
    const field = (name) => ({ value: order[name], onInput: (event) => { setOrder({ ...order, [name]: event.target.value }); setDry(null) } })
    const ask = async () => {
      setRefusal(null)
      try {
        setDry(await api.closeSockets({ ...body(), dry_run: true }))
      } catch (error) {
        setRefusal(error.message)
      }
    }
    const line = `stickyd close ${all ? '--all' : options(filter)} --code ${shell(order.code)}${order.reason ? ` --reason ${shell(order.reason)}` : ''}${order.spread ? ` --spread ${shell(order.spread)}` : ''}`
    return html`<p>${all ? 'Every live socket is closed.' : html`Those that match <code>${write(filter)}</code> are closed.`} Clients that connect again are placed anew.</p>
      <div class="form"><label>Close code<input inputmode="numeric" ...${field('code')} /></label>
        <label>Spread over<input ...${field('spread')} placeholder="at once" /></label>
        <label class="long">Reason, for the clients<input ...${field('reason')} maxlength="120" /></label></div>
      ${refusal && html`<p class="hint bad" role="alert"><${Icon} name="warn" /> ${refusal}</p>`}
      ${dry && html`<p class="hint info" role="status"><${Icon} name="info" /> <span><b>${plural(dry.matched, 'socket')}</b> would be closed: ${plural(dry.tunnels, 'WebSocket')}, ${plural(dry.polling, 'polling session')}.</span></p>`}
      <${Command} line=${line} note="The same on the command line:" />
      ${dry && dry.matched > 0
        ? html`<${Buttons} close=${close} tone="danger" label=${`Close ${plural(dry.matched, 'socket')}`} order=${() => api.closeSockets(body())}
            done=${(said) => `${plural(said.matched, 'socket')} ${said.matched === 1 ? 'is' : 'are'} being closed.`} after=${after} />`
        : html`<footer><button onClick=${close}>Cancel</button><button class="primary" onClick=${ask}>Count first</button></footer>`}`
  })
}

