// The live stream: read by fetch, opened again with a growing pause, let go while the page is hidden.
import * as api from './api.js'
import { reader } from './frames.js'
import { Rings } from './rings.js'
import { addEvents, set, state } from './store.js'

/** Pauses between two tries, in ms. */
const FIRST_PAUSE = 1_000
const LAST_PAUSE = 15_000

/** Time without a byte after which the stream counts as broken: stickyd sends a comment every 15 s. */
const SILENCE = 40_000

/** Time between two looks at the workers, in ms: states arrive as events, the rest is looked up. */
const LOOK = 2_000

let pause = FIRST_PAUSE
let every = 1
let current = null
let timer = null

/** Starts reading, and follows the visibility of the page. */
export function start() {
  document.addEventListener('visibilitychange', () => (document.hidden ? stop() : connect()))
  api.onAnswer(access)
  setInterval(() => { if (state.link.state === 'live' && !document.hidden) look() }, LOOK)
  connect()
}

/** Ends the stream until the page is visible again. */
function stop() {
  clearTimeout(timer)
  current?.abort()
  current = null
}

/** Reads the stream anew at once, for another range or with a token. */
export function connect() {
  stop()
  if (document.hidden) return
  const mine = new AbortController()
  current = mine
  if (state.link.state !== 'live') set({ link: { ...state.link, state: state.link.state === 'lost' ? 'lost' : 'connecting', retryAt: null } })
  follow(mine).catch((error) => {
    if (current === mine) retry(error)
  })
}

function retry(error) {
  if (error.status === 401 || error.status === 403) {
    set({ link: { state: 'refused', since: Date.now(), retryAt: null, why: error.message } })
    return
  }
  const since = state.link.state === 'lost' ? state.link.since : Date.now()
  set({ link: { state: 'lost', since, retryAt: Date.now() + pause, why: error.message } })
  timer = setTimeout(connect, pause)
  pause = Math.min(LAST_PAUSE, pause * 1.7)
}

/** The newest event that is known: stickyd sends those after it. */
function since() {
  const last = state.events.at(-1)
  return last ? { 'Last-Event-ID': String(last.id) } : {}
}

/** Reads one stream until it breaks. */
async function follow(mine) {
  const answer = await fetch(api.path('/api/v1/live', { range: state.range }), {
    headers: { ...api.fields(), ...since() }, cache: 'no-store', redirect: 'error', signal: mine.signal,
  }).catch(() => { throw new api.ApiError('stickyd cannot be reached', 0) })
  if (!answer.ok) throw new api.ApiError((await answer.text()).trim(), answer.status)
  access(answer)
  const bytes = answer.body.getReader()
  const text = new TextDecoder()
  const read = reader(take)
  let silent
  const patient = () => {
    clearTimeout(silent)
    silent = setTimeout(() => mine.abort(), SILENCE)
  }
  try {
    patient()
    for (let { done, value } = await bytes.read(); !done; { done, value } = await bytes.read()) {
      patient()
      read(text.decode(value, { stream: true }))
    }
  } finally {
    clearTimeout(silent)
  }
  throw new api.ApiError('stickyd has closed the connection', 0)
}

function take({ event, data }) {
  if (event === 'hello') hello(JSON.parse(data))
  else if (event === 'sample') sample(JSON.parse(data))
  else if (event === 'event') told(JSON.parse(data))
}

/** The first message: what there is, and what was. */
function hello(said) {
  pause = FIRST_PAUSE
  every = said.every_s
  const rings = new Rings(said.history)
  const recent = said.history.range === '5m' ? rings : state.recent
  set({ link: { state: 'live', since: Date.now(), retryAt: null, why: '' }, rings, recent, workers: said.workers, status: said.status })
  name(said.series)
  addEvents(said.events.map(dated))
  look()
  if (!recent) lookBack()
}

/** Looks the last five minutes up, which the small charts show beside a longer range. */
async function lookBack() {
  try {
    set({ recent: new Rings(await api.history({ range: '5m' })) })
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error
  }
}

/** One sample: the numbers of all workers and upstreams, and what has changed about them. */
function sample({ t, workers, upstreams, series, states }) {
  for (const rings of new Set([state.rings, state.recent])) rings?.push(t, workers, upstreams, every)
  set({})
  if (series) name(series)
  if (series || states) soon()
}

/** Keeps the names of the serial numbers. */
function name(workers) {
  set({ serials: new Map(workers.map((one) => [`${one.upstream}/${one.worker}`, one.serial])) })
}

/** An event with its moment in ms. */
const dated = (said) => ({ ...said, at: Date.parse(said.at) })

function told(said) {
  addEvents([dated(said)])
  soon()
}

/** Shows another range of time. */
export function setRange(range) {
  set({ range })
  connect()
}

/** Why orders are not for this page: by the word of the API. */
const REASONS = {
  'no-token': { why: 'Look only: no token is configured, so orders go by the command line.' },
  'token-needed': { why: 'Look only: orders need the token.', token: true },
  'wrong-token': { why: 'Look only: this token is not right.', token: true },
  'read-token': { why: 'Look only: this token may read. Orders go by the command line.', token: true },
}

/** What the answer says about this page's rights. */
function access(answer) {
  const said = answer.headers.get('x-stickyd-access')
  if (!said) return
  const [may, reason] = said.split(';').map((part) => part.trim())
  if (may !== state.access.may || reason !== state.access.reason) set({ access: { may, reason, ...REASONS[reason] } })
}

let looking = null

/** Looks the workers up soon: an event has told of a change. */
function soon() {
  clearTimeout(looking)
  looking = setTimeout(look, 60)
}

/** Looks up what samples do not carry: states, reasons, limits. */
export async function look() {
  try {
    const [{ workers, names }, status] = await Promise.all([api.workers(), api.status()])
    set({ workers, names, status })
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error
  }
}
