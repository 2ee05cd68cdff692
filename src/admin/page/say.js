// Say: a text or a Socket.IO event to the clients of many WebSockets, after a count.
import { useState } from 'preact/hooks'
import * as api from './api.js'
import { Act, Command, Head, html, Icon, useStore } from './ui.js'
import { options, parse } from './search.js'
import { count, plural, shell } from './words.js'

/** Reads the arguments of an event: JSON values, one per line. */
export function readArguments(text) {
  const lines = text.split('\n').map((line) => line.trim()).filter(Boolean)
  return lines.map((line) => {
    try {
      return JSON.parse(line)
    } catch {
      throw new Error(`${line} is not JSON: put a text in double quotes`)
    }
  })
}

const MISSED = { closing: 'closing', denied: 'without broadcast = true', not_ready: 'not connected yet', other_kind: 'of another protocol', polling: 'polling', slow: 'too slow' }

export function Say() {
  const { access } = useStore()
  const [to, setTo] = useState('')
  const [kind, setKind] = useState('event')
  const [form, setForm] = useState({ event: '', args: '', namespace: '', text: '' })
  const [counted, setCounted] = useState(null)
  const [sent, setSent] = useState(null)
  const [refusal, setRefusal] = useState(null)
  const search = parse(to)
  const all = Object.keys(search.filter).length === 0
  const change = (pieces) => { setForm({ ...form, ...pieces }); setCounted(null); setSent(null) }
  const body = () => {
    const what = kind === 'text' ? { text: form.text } : {
      event: form.event, ...(form.args.trim() ? { args: readArguments(form.args) } : {}), ...(form.namespace ? { namespace: form.namespace } : {}),
    }
    return { ...search.filter, ...(all ? { all: true } : {}), ...what }
  }
  const attempt = async (order) => {
    setRefusal(null)
    try {
      await order()
    } catch (error) {
      setRefusal(error.message)
    }
  }
  const preview = () => attempt(async () => {
    body()
    setCounted((await api.sockets({ ...search.filter, limit: 1 })).total)
  })
  const send = () => attempt(async () => {
    setSent(await api.broadcast(body()))
    setCounted(null)
  })
  const args = form.args.split('\n').map((one) => one.trim()).filter(Boolean)
  const line = `stickyd broadcast ${all ? '--all' : options(search.filter)} ${kind === 'text' ? `--text ${shell(form.text)}`
    : [`--event ${shell(form.event)}`, ...args.map((one) => `--arg ${shell(one)}`), form.namespace ? `--namespace ${shell(form.namespace)}` : ''].filter(Boolean).join(' ')}`
  const wrong = search.error ?? refusal
  const ready = kind === 'text' ? form.text : form.event
  return html`<${Head} title="Say" />
    <section class="card say"><p>Sends a message to the clients of WebSockets whose route or upstream has <code>broadcast = true</code>.</p>
      <label>To whom<input id="search" value=${to} spellcheck="false" placeholder="all clients, or label:store=7 worker:w1" onInput=${(event) => { setTo(event.target.value); setCounted(null); setSent(null) }} /></label>
      <fieldset><legend>What</legend>
        <label class="choice"><input type="radio" name="what" checked=${kind === 'event'} onChange=${() => { setKind('event'); setCounted(null) }} /><span>a Socket.IO event</span></label>
        <label class="choice"><input type="radio" name="what" checked=${kind === 'text'} onChange=${() => { setKind('text'); setCounted(null) }} /><span>a text, for plain WebSockets</span></label></fieldset>
      ${kind === 'event' ? html`<div class="form"><label>Event<input value=${form.event} placeholder="maintenance" onInput=${(event) => change({ event: event.target.value })} /></label>
          <label>Namespace<input value=${form.namespace} placeholder="/" onInput=${(event) => change({ namespace: event.target.value })} /></label>
          <label class="long">Arguments: JSON values, one per line<textarea rows="3" value=${form.args} placeholder=${'{"in": "5 min"}'} onInput=${(event) => change({ args: event.target.value })}></textarea></label></div>`
        : html`<label>Text<textarea rows="4" value=${form.text} onInput=${(event) => change({ text: event.target.value })}></textarea></label>`}
      ${wrong && html`<p class="hint bad" role="alert"><${Icon} name="warn" /> ${wrong}</p>`}
      ${counted != null && html`<p class="hint info" role="status"><${Icon} name="info" /> <span><b>${plural(counted, 'socket')}</b> ${counted === 1 ? 'matches' : 'match'}; those that poll or that are not allowed are left out.</span></p>`}
      ${sent && html`<p class="hint good" role="status"><${Icon} name="check" /> <span>${count(sent.reached)} of ${plural(sent.matched, 'socket')} reached${missed(sent.not_reached)}.</span></p>`}
      ${ready && html`<${Command} line=${line} note="The same on the command line:" />`}
      ${access.may === 'operate' && html`<div class="orders"><button disabled=${!ready || search.error} onClick=${preview}>Count first</button>
        <${Act} tone="primary" line=${line} disabled=${counted == null || counted === 0} onClick=${send}>${counted ? `Send to ${plural(counted, 'socket')}` : 'Send'}<//></div>`}
    </section>`
}

function missed(all) {
  const those = Object.entries(all).filter(([, number]) => number > 0).map(([why, number]) => `${count(number)} ${MISSED[why] ?? why}`)
  return those.length ? `; not reached: ${those.join(', ')}` : ''
}
