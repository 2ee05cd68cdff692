// Explain: which worker a request would reach, and why, out of whatever is at hand: an address, a cookie, a session id.
import { useEffect, useState } from 'preact/hooks'
import * as api from './api.js'
import { Badge, Command, Head, html, Icon, useField, useStore } from './ui.js'
import { go } from './main.js'
import { link } from './routes.js'
import { read } from './question.js'
import { sentence, shell } from './words.js'

export function Explain({ route }) {
  const { workers } = useStore()
  const upstreams = [...new Set((workers ?? []).map((worker) => worker.upstream))]
  const { q = '' } = route.query
  const upstream = route.query.upstream ?? upstreams[0] ?? ''
  const [typed, type] = useField(q)
  const [answer, setAnswer] = useState(null)
  const [refusal, setRefusal] = useState(null)
  const asked = read(q)
  useEffect(() => {
    if (!upstream || asked.error || route.query.q == null) return undefined
    let current = true
    api.explain({ upstream, ...asked.query }).then(
      (said) => { if (current) { setAnswer(said); setRefusal(null) } },
      (error) => { if (current) { setAnswer(null); setRefusal(error.message) } })
    return () => { current = false }
  }, [q, upstream, route.query.q == null])
  const submit = (event) => {
    event.preventDefault()
    go(link('explain', [], { q: typed.trim() || ' ', upstream }))
  }
  const line = ['stickyd explain', upstreams.length > 1 ? `--upstream ${shell(upstream)}` : '',
    ...Object.entries(asked.query).map(([name, value]) => `--${name} ${shell(value)}`)].filter(Boolean).join(' ')
  const wrong = asked.error ?? refusal
  return html`<${Head} title="Explain" />
    <form class="card ask" onSubmit=${submit}><p>Paste a failing address, a <code>Cookie</code> field, a session id, or the address of a client.</p>
      <div class="line"><label class="search wide"><${Icon} name="explain" /><span class="hidden">What to explain</span>
        <input id="search" value=${typed} spellcheck="false" autocomplete="off" placeholder="https://app.example/socket.io/?EIO=4&transport=polling&sid=…" onInput=${(event) => type(event.target.value)} /></label>
        ${upstreams.length > 1 && html`<select aria-label="Upstream" value=${upstream} onChange=${(event) => go(link('explain', [], { q: typed.trim() || ' ', upstream: event.target.value }))}>${upstreams.map((one) => html`<option value=${one}>${one}</option>`)}</select>`}
        <button class="primary">Explain</button></div></form>
    ${wrong && html`<p class="hint bad" role="alert"><${Icon} name="warn" /> ${wrong}</p>`}
    ${!wrong && answer && route.query.q != null && html`<section class="card answer" role="status">
      <p class="why">For ${asked.words}${answer.rule ? html`, by the rule <code>${answer.rule}</code>` : ''}:</p>
      <${Decision} title="Now" one=${answer.now} upstream=${answer.upstream} />
      ${answer.if_it_died && html`<${Decision} title="If that worker died" one=${answer.if_it_died} upstream=${answer.upstream} />`}
      ${answer.cookie && html`<p class="why">Cookie: ${answer.cookie}</p>`}
      <${Command} line=${line} note="The same on the command line:" /></section>`}`
}

function Decision({ title, one, upstream }) {
  const { state } = one
  const word = state && (state.ejected ? 'ejected' : state.admin !== 'ready' ? state.admin : state.health)
  return html`<div class="decision"><h2>${title}</h2><p class="first">${one.worker
      ? html`<a href=${link('workers', [upstream, one.worker])}>${upstream}/${one.worker}</a> ` : 'No worker '}
      ${word && html`<${Badge} tone=${state.serves ? 'good' : 'bad'} icon=${state.serves ? 'check' : 'cross'}>${word}<//>`}</p>
    <p>${sentence(one.words)}${/[.!?]$/.test(one.words) ? '' : '.'}</p></div>`
}
