// The frame of the page: routes, navigation, keys, the banner, the look.
import { render } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import * as api from './api.js'
import { Dialogs, open } from './dialogs.js'
import { current } from './drawer.js'
import { Configuration } from './config.js'
import { Events } from './events.js'
import { Explain } from './explain.js'
import { KEYS, reader } from './keys.js'
import { Labels } from './labels.js'
import { connect, start } from './live.js'
import { Overview } from './overview.js'
import { link, parse, VIEWS } from './routes.js'
import { Say } from './say.js'
import { Sockets } from './sockets.js'
import { set, state } from './store.js'
import { html, Icon, useStore } from './ui.js'
import { askDrain, Workers } from './workers.js'
import { fullName, stateOf } from './workerstate.js'
import { span } from './words.js'

const PAGES = { overview: Overview, workers: Workers, sockets: Sockets, labels: Labels, events: Events, explain: Explain, config: Configuration, say: Say }

/** Views in the bar of narrow screens; the others are under "More". */
const FIRST = ['overview', 'workers', 'sockets', 'events']

/** Goes to a hash; `quiet` leaves no entry in the history. */
export function go(hash, quiet = false) {
  if (hash === location.hash) return
  if (quiet) location.replace(hash)
  else location.hash = hash
}

/** The row or card that the keys have marked. */
const selection = {
  names: [],
  open: null,
  marked: null,
  list(names, opens = null) {
    this.names = names
    this.open = opens
    if (this.marked && !names.includes(this.marked)) this.marked = null
  },
  move(by) {
    const at = this.names.indexOf(this.marked)
    const to = at < 0 ? (by > 0 ? 0 : this.names.length - 1) : Math.min(this.names.length - 1, Math.max(0, at + by))
    this.marked = this.names[to] ?? null
    set({})
    requestAnimationFrame(() => document.querySelector('.marked')?.scrollIntoView({ block: 'nearest' }))
  },
}

const THEMES = ['auto', 'light', 'dark']
const themeOf = () => localStorage.getItem('stickyd.theme') ?? 'auto'

function wear(theme) {
  if (theme === 'auto') localStorage.removeItem('stickyd.theme')
  else localStorage.setItem('stickyd.theme', theme)
  document.documentElement.dataset.theme = theme
}

function App() {
  const store = useStore()
  const [route, setRoute] = useState(parse(location.hash))
  const [theme, setTheme] = useState(themeOf())
  const [dark, setDark] = useState(matchMedia('(prefers-color-scheme: dark)').matches)
  const before = useRef(route.view)
  useEffect(() => {
    const turned = () => setRoute(parse(location.hash))
    const scheme = matchMedia('(prefers-color-scheme: dark)')
    const seen = () => setDark(scheme.matches)
    addEventListener('hashchange', turned)
    scheme.addEventListener('change', seen)
    return () => { removeEventListener('hashchange', turned); scheme.removeEventListener('change', seen) }
  }, [])
  useEffect(() => {
    document.title = `${mark(store)}${VIEWS.find((view) => view.name === route.view).title} · stickyd`
    if (before.current === route.view) return
    before.current = route.view
    selection.marked = null
    scrollTo(0, 0)
    document.querySelector('main h1')?.focus({ preventScroll: true })
  })
  const turn = (to) => { wear(to); setTheme(to) }
  useKeys(route, () => turn(THEMES[(THEMES.indexOf(themeOf()) + 1) % THEMES.length]))
  const Page = PAGES[route.view]
  const shade = theme === 'auto' ? (dark ? 'dark' : 'light') : theme
  if (store.link.state === 'refused') return html`<${Door} why=${store.link.why} /><${Toasts} store=${store} />`
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector('main h1')?.focus() }}>Skip to the content</a>
    <${Side} store=${store} route=${route} theme=${theme} turn=${turn} />
    <main id="main"><${Banner} store=${store} /><${Page} route=${route} selection=${selection} theme=${shade} /></main>
    <${Tabs} route=${route} theme=${theme} turn=${turn} />
    <${Toasts} store=${store} /><${Dialogs} />`
}

/** Number of workers that need attention, for the title of the tab. */
const mark = (store) => {
  if (store.link.state === 'lost') return '✕ '
  const ill = (store.workers ?? []).filter((worker) => stateOf(worker).order < 4).length
  return ill ? `(${ill}) ` : ''
}

function Side({ store, route, theme, turn }) {
  const ill = (store.workers ?? []).filter((worker) => stateOf(worker).order < 4).length
  return html`<header class="side"><a class="brand" href="#/overview" aria-label="stickyd: overview"><img src="/page/icon.svg" alt="" width="26" height="26" /><span>stickyd</span></a>
    <nav aria-label="Views"><ul>${VIEWS.map((view) => html`<li><a href=${link(view.name)} aria-current=${view.name === route.view ? 'page' : null}>
      <${Icon} name=${view.name} /><span>${view.title}</span>${view.name === 'workers' && ill > 0 && html`<span class="count" title="workers that need attention">${ill}<span class="hidden"> need attention</span></span>`}</a></li>`)}</ul></nav>
    <div class="foot"><${Link} store=${store} /><${Themes} theme=${theme} turn=${turn} />
      <p><button class="text" onClick=${help}>Keys: ?</button> <span>${store.status ? `version ${store.status.version}` : ''}</span></p></div></header>`
}

const LINKS = { live: ['good', 'live'], connecting: ['mute', 'connecting'], lost: ['bad', 'not connected'], refused: ['bad', 'refused'] }

function Link({ store }) {
  const [tone, word] = LINKS[store.link.state]
  return html`<p class="link ${tone}"><span class="pulse"></span>${word}${store.access.may === 'look' ? ', look only' : ''}</p>`
}

const Themes = ({ theme, turn }) => html`<div class="switch" role="group" aria-label="Colours">${THEMES.map((one) => html`
  <button aria-pressed=${one === theme} onClick=${() => turn(one)} title=${{ auto: 'as the system', light: 'light', dark: 'dark' }[one]}><${Icon} name=${{ auto: 'auto', light: 'sun', dark: 'moon' }[one]} size="14" /><span class="hidden">${{ auto: 'as the system', light: 'light', dark: 'dark' }[one]}</span></button>`)}</div>`

function Tabs({ route, theme, turn }) {
  const [more, setMore] = useState(false)
  useEffect(() => setMore(false), [route.view])
  const item = (view) => html`<a href=${link(view.name)} aria-current=${view.name === route.view ? 'page' : null} onClick=${() => setMore(false)}><${Icon} name=${view.name} size="18" /><span>${view.title}</span></a>`
  const others = VIEWS.filter((view) => !FIRST.includes(view.name))
  return html`<nav class="tabs" aria-label="Views, short">
    ${more && html`<div class="sheet">${others.map(item)}<${Themes} theme=${theme} turn=${turn} /></div>`}
    <div class="bar-of-tabs">${FIRST.map((name) => item(VIEWS.find((view) => view.name === name)))}
      <button aria-expanded=${more} onClick=${() => setMore(!more)}><${Icon} name="more" size="18" /><span>More</span></button></div></nav>`
}

function Banner({ store }) {
  const [, again] = useState(0)
  useEffect(() => {
    if (store.link.state !== 'lost') return undefined
    const timer = setInterval(() => again((n) => n + 1), 1000)
    return () => clearInterval(timer)
  }, [store.link.state])
  if (store.access.may === 'look' && store.access.why && store.link.state === 'live') {
    return html`<p class="banner info"><${Icon} name="info" /><span>${store.access.why}</span>${store.access.token && html`<button class="text" onClick=${askToken}>Give a token</button>`}</p>`
  }
  if (store.link.state !== 'lost') return null
  const next = Math.max(0, Math.ceil((store.link.retryAt - Date.now()) / 1000))
  return html`<div class="banner bad" role="alert"><${Icon} name="cross" /><span><b>No connection to stickyd</b> for ${span((Date.now() - store.link.since) / 1000)}: ${store.link.why}. What you see is from before.
    ${store.link.retryAt ? ` Next try in ${next} s.` : ' Trying…'}</span><button onClick=${connect}>Try now</button></div>`
}

function askToken() {
  open('Token of this stickyd', ({ close }) => html`<${TokenForm} after=${close} />`)
}

function TokenForm({ after }) {
  const [text, setText] = useState('')
  const submit = (event) => {
    event.preventDefault()
    api.keepToken(text.trim())
    after?.()
    connect()
  }
  return html`<form onSubmit=${submit}><label>Token<input type="password" value=${text} autofocus autocomplete="off" onInput=${(event) => setText(event.target.value)} /></label>
    <p class="why">It is in the file that <code>[admin] token_file</code> names. This tab keeps it until it is closed.</p>
    <footer><button class="primary">Open</button></footer></form>`
}

/** Where a token is asked for, or the refusal is told. */
function Door({ why }) {
  const given = api.token() !== ''
  return html`<main class="door"><div class="card"><img src="/page/icon.svg" alt="" width="44" height="44" /><h1>stickyd</h1>
    <p class=${given ? 'hint bad' : 'why'} role="alert">${given ? html`<${Icon} name="warn" /> This token is not right: ${why}` : why || 'This stickyd asks for its token.'}</p>
    <${TokenForm} /></div></main>`
}

const Toasts = ({ store }) => html`<div class="toasts" role="status">${store.toasts.map((one) => html`<p key=${one.id} class=${one.tone}><${Icon} name=${one.tone === 'good' ? 'check' : 'warn'} />${one.text}</p>`)}</div>`

function help() {
  open('Keys', () => html`<dl class="facts keys">${KEYS.map(([key, what]) => html`<dt>${key.split(/\s+/).map((one) => html`<kbd>${one}</kbd> `)}</dt><dd>${what}</dd>`)}</dl>`)
}

function useKeys(route, theme) {
  const latest = useRef(null)
  latest.current = { route, theme }
  useEffect(() => {
    const read = reader()
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return
      const typing = event.target.closest?.('input, textarea, select')
      if (typing) {
        if (event.key === 'Escape') typing.blur()
        return
      }
      if (document.querySelector('dialog[open]')) return
      if (event.key === 'Enter' && event.target.closest?.('a, button')) return
      const action = read(event.key, performance.now())
      if (action && act(action, latest.current)) event.preventDefault()
    }
    addEventListener('keydown', pressed)
    return () => removeEventListener('keydown', pressed)
  }, [])
}

/** Does what a key says; returns whether it meant something here. */
function act(action, { route, theme }) {
  if (action.go) go(link(action.go))
  else if (action.search) document.getElementById('search')?.focus()
  else if (action.next) selection.move(1)
  else if (action.previous) selection.move(-1)
  else if (action.help) help()
  else if (action.theme) theme()
  else if (action.leave) current()?.close()
  else if (action.open) return openMarked(route)
  else if (action.act) return actOnMarked(route)
  return true
}

function openMarked(route) {
  if (!selection.marked) return false
  if (selection.open) selection.open(selection.marked)
  else if (route.view === 'workers') document.querySelector('.worker.marked .orders button, .worker.marked .orders a')?.focus()
  return true
}

function actOnMarked(route) {
  if (state.access.may !== 'operate') return false
  if (route.view === 'workers') {
    const worker = state.workers?.find((one) => fullName(one) === selection.marked)
    if (worker && worker.admin === 'ready') askDrain(worker)
    return Boolean(worker)
  }
  if (!current() && selection.marked && selection.open) selection.open(selection.marked)
  else current()?.act()
  return true
}

api.takeKey()
wear(themeOf())
render(html`<${App} />`, document.getElementById('app'))
start()
