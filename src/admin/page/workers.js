// Workers: a card each, with its state in words, its curves, and the orders for it.
import { useEffect, useRef, useState } from 'preact/hooks'
import * as api from './api.js'
import { Act, Badge, Bar, Command, Empty, Head, html, Icon, useStore } from './ui.js'
import { Spark } from './charts.js'
import { Buttons, open, run } from './dialogs.js'
import { look } from './live.js'
import { link } from './routes.js'
import { serialOf } from './store.js'
import { Waiting } from './overview.js'
import { byAttention, drained, fullName, isUnused, stateOf } from './workerstate.js'
import { bytes, count, plural, rate, shell, span } from './words.js'

/** Number of cards that are drawn; a search finds the others. */
const CARDS = 120

export function Workers({ route, selection }) {
  const store = useStore()
  const [unused, setUnused] = useState(false)
  const text = (route.query.q ?? '').toLowerCase()
  if (!store.workers) return html`<${Head} title="Workers" /><${Waiting} />`
  const chosen = route.rest.join('/')
  const all = byAttention(store.workers)
  const spare = all.filter(isUnused)
  const fits = (worker) => !text || `${fullName(worker)} ${worker.address} ${stateOf(worker).word}`.toLowerCase().includes(text)
  const shown = (unused ? all : all.filter((worker) => !isUnused(worker))).filter(fits)
  const ill = shown.filter((worker) => stateOf(worker).order < 4).length
  selection.list(shown.map(fullName))
  return html`<${Head} title="Workers">
      <label class="search"><${Icon} name="search" /><span class="hidden">Search workers</span>
        <input type="search" id="search" placeholder="Name, address or state" value=${route.query.q ?? ''}
          onInput=${(event) => location.replace(link('workers', [], { q: event.target.value }))} /></label>
    <//>
    <p class="summary">${plural(shown.length, 'worker')}${ill ? html`, <strong>${ill} ${ill === 1 ? 'needs' : 'need'} attention</strong>` : ''}${spare.length > 0 && html`<span> · </span><button class="text" aria-pressed=${unused} onClick=${() => setUnused(!unused)}>${unused ? 'hide' : 'show'} ${plural(spare.length, 'unused port')}</button>`}</p>
    ${store.names.filter((one) => one.error).map((one) => html`<p class="hint warn"><${Icon} name="warn" /> ${one.name}: ${one.error}</p>`)}
    ${shown.length === 0 && html`<${Empty} title="No worker to show">${text ? 'No worker has this in its name, address or state.' : 'Workers appear here when they first listen.'}<//>`}
    <div class="cards">${shown.slice(0, CARDS).map((worker) => html`<${Card} key=${fullName(worker)} worker=${worker} store=${store}
      marked=${fullName(worker) === (selection.marked ?? chosen)} chosen=${fullName(worker) === chosen} />`)}</div>
    ${shown.length > CARDS && html`<p class="summary">${shown.length - CARDS} more: search by name, address or state.</p>`}`
}

function Card({ worker, store, marked, chosen }) {
  const element = useRef(null)
  useEffect(() => { if (chosen) element.current?.scrollIntoView({ block: 'nearest' }) }, [chosen])
  const state = stateOf(worker)
  const name = fullName(worker)
  const rings = store.recent
  const serial = serialOf(worker)
  const ring = rings?.workers.get(serial)
  const now = (field) => rings?.now(serial, field)
  return html`<article ref=${element} class="card worker ${state.tone} ${marked ? 'marked' : ''}" data-worker=${name} aria-label=${`${name}: ${state.word}`}>
    <header><h2>${name}</h2><${Badge} tone=${state.tone} icon=${state.icon}>${state.word}<//></header>
    <p class="why">${worker.worker === worker.address ? '' : `${worker.address} · `}${state.why}</p>
    ${!isUnused(worker) && html`<div class="curves">
      <${Curve} label="Sockets" value=${count(Math.max(worker.sessions, worker.tunnels))} values=${ring && rings.sockets(serial)} />
      <${Curve} label="Requests/s" value=${rate(now('requests_per_s'))} values=${ring?.requests_per_s} />
      <${Curve} label="CPU" value=${worker.process?.cpu_percent == null ? '–' : `${rate(worker.process.cpu_percent)} %`} values=${ring?.cpu_percent} tone=${worker.process?.cpu_percent > 85 ? 'warn' : 'accent'} />
    </div>`}
    ${worker.drain && html`<${Drain} drain=${worker.drain} admin=${worker.admin} />`}
    <${Facts} worker=${worker} />
    <${Orders} worker=${worker} /></article>`
}

const Curve = ({ label, value, values, tone }) => html`<div class="curve"><span class="label">${label}</span><span class="value">${value}</span>
  <${Spark} values=${values} tone=${tone} /></div>`

function Drain({ drain, admin }) {
  const left = drain.sessions_left || drain.tunnels_left
  const share = drained(drain)
  const ends = drain.ends_in_s == null ? 'no deadline' : drain.ends_in_s ? `${span(drain.ends_in_s)} left` : 'the grace is over'
  const words = left ? `${plural(left, drain.sessions_left ? 'session' : 'WebSocket')} left, ${ends}` : 'Empty: the worker may be stopped now'
  return html`<div class="drain"><p>${words}<span class="number">${Math.round(share * 100)} %</span></p>
    <${Bar} share=${share} tone=${left ? 'info' : 'good'} label=${admin === 'maint' ? 'Sessions ended' : 'Drained'} /></div>`
}

function Facts({ worker }) {
  const { process, check, bus } = worker
  const facts = [
    ['Process', process ? `${process.command || 'pid'} ${process.pid}${process.shared ? ' (shared)' : ''}` : null],
    ['Memory', process ? bytes(process.memory_bytes) : null],
    ['Restarts', worker.restarts ? count(worker.restarts) : null],
    ['In flight', `${worker.in_flight}${worker.waiting ? `, ${worker.waiting} waiting` : ''}`],
    ['Event loop lag, p99', bus ? `${rate(bus.lag_p99_ms)} ms` : null],
    ['Weight', worker.weight === 1 ? null : worker.weight],
    ['Last check', check ? `${check.detail ?? check.outcome}, ${span(check.ago_ms / 1000)} ago` : null],
    ['Ejection', worker.last_ejection && !worker.ejected ? worker.why.ejection : null],
  ].filter(([, value]) => value != null)
  return html`<dl class="facts">${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`
}

/** Asks how long a drain may take; says what it means. */
export function askDrain(worker) {
  const sessions = Math.max(worker.sessions, worker.tunnels)
  open(`Drain ${fullName(worker)}`, ({ close }) => {
    const [grace, setGrace] = useState('60s')
    const [limited, setLimited] = useState(true)
    const line = `stickyd drain ${shell(fullName(worker))}${limited ? ` --grace ${shell(grace)}` : ''}`
    return html`<p>New sessions go to other workers at once. ${plural(sessions, 'session')} ${sessions === 1 ? 'is' : 'are'} on it now.</p>
      <fieldset><legend>Its sessions</legend>
        <label class="choice"><input type="radio" name="how" checked=${limited} onChange=${() => setLimited(true)} autofocus />
          <span>are ended evenly within <input class="small" aria-label="Grace" value=${grace} onInput=${(event) => setGrace(event.target.value)} onFocus=${() => setLimited(true)} size="6" /></span></label>
        <label class="choice"><input type="radio" name="how" checked=${!limited} onChange=${() => setLimited(false)} /><span>end as configured, or by themselves</span></label>
      </fieldset>
      <${Command} line=${line} note="The same on the command line:" />
      <${Buttons} close=${close} label="Drain" order=${() => api.setWorker(worker, 'drain', limited ? { grace } : {})}
        done=${`${fullName(worker)} gets no new sessions.`} after=${look} />`
  })
}

function askMaint(worker) {
  const sessions = Math.max(worker.sessions, worker.tunnels)
  open(`Maintenance of ${fullName(worker)}`, ({ close }) => html`
    <p>${sessions ? `This ends ${sessions === 1 ? 'its one session' : `all ${plural(sessions, 'session')} of it`} at once. Clients connect again and reach other workers.` : 'It has no sessions.'} It gets no requests until it is made ready.</p>
    <${Command} line=${`stickyd maint ${shell(fullName(worker))}`} note="The same on the command line:" />
    <${Buttons} close=${close} label=${sessions ? 'End its sessions' : 'Maintenance'} tone="danger" order=${() => api.setWorker(worker, 'maint')}
      done=${`${fullName(worker)} is in maintenance.`} after=${look} />`)
}

async function ready(worker) {
  if (await run(() => api.setWorker(worker, 'ready'), `${fullName(worker)} takes new sessions.`)) look()
}

/** The orders that make sense in the present state. */
function Orders({ worker }) {
  const name = shell(fullName(worker))
  if (isUnused(worker)) return null
  return html`<div class="orders">
    ${worker.admin === 'ready' && html`<${Act} line=${`stickyd drain ${name} --grace 60s`} onClick=${() => askDrain(worker)}>Drain…<//>`}
    ${worker.admin !== 'maint' && html`<${Act} line=${`stickyd maint ${name}`} onClick=${() => askMaint(worker)}>Maintenance…<//>`}
    ${worker.admin !== 'ready' && html`<${Act} tone="primary" line=${`stickyd ready ${name}`} onClick=${() => ready(worker)}>Ready<//>`}
    <a class="go" href=${link('sockets', [], { q: `upstream:${worker.upstream} worker:${worker.worker}` })}>Sockets<span class="hidden"> of ${fullName(worker)}</span></a></div>`
}
