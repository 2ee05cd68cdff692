// Building blocks of all views: templates, icons, badges, bars, commands to copy.
import { h } from 'preact'
import { useEffect, useReducer, useRef, useState } from 'preact/hooks'
import htm from 'htm'
import { listen, state, toast } from './store.js'

export const html = htm.bind(h)

/** The state of the page; the component is drawn again after each change. */
export function useStore() {
  const [, again] = useReducer((n) => n + 1, 0)
  useEffect(() => listen(() => again()), [])
  return state
}

/** Calls a function now, and again each `seconds` while the page is visible. */
export function useEvery(seconds, call, inputs = []) {
  const latest = useRef(call)
  latest.current = call
  useEffect(() => {
    const tick = () => { if (!document.hidden) latest.current() }
    tick()
    const timer = setInterval(tick, seconds * 1000)
    document.addEventListener('visibilitychange', tick)
    return () => {
      clearInterval(timer)
      document.removeEventListener('visibilitychange', tick)
    }
  }, [seconds, ...inputs])
}

/** The text of a field that stands for `q` of the address: `[text, type, sent]`. Another `q` replaces what was typed,
 * at once, unless it is the text that `sent` announced: what is typed meanwhile stays. */
export function useField(q) {
  const [, again] = useReducer((n) => n + 1, 0)
  const field = useRef({ q, text: q, sent: null }).current
  if (field.q !== q) {
    if (field.sent !== q) field.text = q
    field.q = q
    field.sent = null
  }
  const type = (text) => {
    field.text = text
    again()
  }
  return [field.text, type, (text) => { field.sent = text }]
}

/** Lines of the icons, on a grid of 16. */
const ICONS = {
  check: 'M3.5 8.5l3 3 6-7',
  cross: 'M4 4l8 8M12 4l-8 8',
  warn: 'M8 2.2L14.4 13.4H1.6zM8 6.4v3.4M8 11.6v.2',
  hourglass: 'M4 2.5h8M4 13.5h8M5 2.5c0 4 6 4 6 11M11 2.5c0 4-6 4-6 11',
  arrow: 'M3 8h9M8.5 4.5L12 8l-3.5 3.5',
  dots: 'M3.5 8h.2M8 8h.2M12.5 8h.2',
  ring: 'M8 3.5a4.5 4.5 0 1 0 .01 0',
  wrench: 'M9.6 6.4L3.4 12.6M9.2 3.2a3.2 3.2 0 0 0 3.6 3.6',
  drain: 'M8 2.5v8M4.8 7.6L8 10.8l3.2-3.2M3.5 13.5h9',
  info: 'M8 2.2a5.8 5.8 0 1 0 .01 0M8 7.4v3.6M8 5v.2',
  copy: 'M5.5 5.5h7v7h-7zM3.5 10.5v-7h7',
  overview: 'M2.5 13.5V9M6.2 13.5v-11M9.8 13.5V7M13.5 13.5V4.5',
  workers: 'M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.2M5 11h.2',
  sockets: 'M2.5 5h11M10.5 2.2L13.5 5l-3 2.8M13.5 11h-11M5.5 8.2L2.5 11l3 2.8',
  labels: 'M2.5 2.5h5l6 6-5 5-6-6zM5.2 5.2h.2',
  events: 'M2.5 4h2M7 4h6.5M2.5 8h2M7 8h6.5M2.5 12h2M7 12h6.5',
  explain: 'M5.6 6a2.4 2.4 0 1 1 3.4 2.2c-.7.4-1 .8-1 1.8M8 12.6v.2',
  config: 'M2.5 4.5h6M12 4.5h1.5M10.2 2.8v3.4M2.5 11.5h1.5M7.5 11.5h6M5.8 9.8v3.4',
  say: 'M2.5 6.2v3.6h2.6l5.4 3.4V2.8L5.1 6.2zM13 6.4c.7 1 .7 2.2 0 3.2',
  more: 'M2.5 4h11M2.5 8h11M2.5 12h11',
  sun: 'M8 5.2a2.8 2.8 0 1 0 .01 0M8 1.5v1.2M8 13.3v1.2M1.5 8h1.2M13.3 8h1.2M3.4 3.4l.9.9M11.7 11.7l.9.9M12.6 3.4l-.9.9M4.3 11.7l-.9.9',
  moon: 'M13 9.6A5.6 5.6 0 0 1 6.4 3a5.6 5.6 0 1 0 6.6 6.6z',
  auto: 'M8 2.5a5.5 5.5 0 1 0 .01 0M8 2.5v11M8 5l3.6-.4M8 8h5.4M8 11l3.6.4',
  search: 'M7 2.5a4.5 4.5 0 1 0 .01 0M10.3 10.3l3.2 3.2',
  close: 'M4 4l8 8M12 4l-8 8',
  clock: 'M8 2.5a5.5 5.5 0 1 0 .01 0M8 5v3.2l2.2 1.4',
}

/** A drawing that says nothing by itself: the word stands beside it. */
export const Icon = ({ name, size = 16 }) => html`<svg class="icon" width=${size} height=${size} viewBox="0 0 16 16" aria-hidden="true">
  <path d=${ICONS[name] ?? ICONS.ring} /></svg>`

/** A state in a word, with an icon: the colour repeats it. */
export const Badge = ({ tone, icon, children }) => html`<span class="badge ${tone}">${icon && html`<${Icon} name=${icon} size="13" />`}${children}</span>`

/** How full something is; the number says the same. */
export function Bar({ share, tone = 'accent', label }) {
  const percent = Math.round(Math.min(1, Math.max(0, share)) * 1000) / 10
  return html`<div class="bar ${tone}" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${Math.round(percent)}><span style=${{ width: `${percent}%` }}></span></div>`
}

/** The words of a command line, which breaks only between them: not within `--grace`. */
const words = (line) => line.split(' ').map((word, at) => html`${at ? ' ' : ''}<span class="word">${word}</span>`)

/** A command line, with a button that copies it. */
export function Command({ line, note }) {
  const [copied, setCopied] = useState(false)
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(line)
      setCopied(true)
      setTimeout(() => setCopied(false), 1500)
    } catch {
      toast('The browser does not allow copying here: mark the line instead.', 'warn')
    }
  }
  return html`<div class="command">${note && html`<span class="note">${note}</span>`}<code>${words(line)}</code>
    <button class="quiet" onClick=${copy} aria-label=${`Copy: ${line}`}><${Icon} name=${copied ? 'check' : 'copy'} size="14" /></button></div>`
}

/** A button for who may operate; otherwise the command line that does the same. */
export function Act({ line, onClick, tone = '', disabled, children, ...more }) {
  const { access } = useStore()
  if (access.may !== 'operate') return html`<${Command} line=${line} />`
  return html`<button class=${tone} disabled=${disabled} onClick=${onClick} ...${more}>${children}</button>`
}

/** What stands where nothing is to be shown. */
export const Empty = ({ title, children }) => html`<div class="empty"><p class="lead">${title}</p><p>${children}</p></div>`

/** Head of a view. */
export const Head = ({ title, children }) => html`<header class="head"><h1 tabindex="-1">${title}</h1><div class="tools">${children}</div></header>`
