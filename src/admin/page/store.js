// What the page knows: one object, replaced piece by piece, and the listeners of its changes.

/** Number of events that are kept, as stickyd does. */
const EVENTS = 1024

export const state = {
  /** Connection: `connecting`, `live`, `lost` or `refused` (a token is needed). */
  link: { state: 'connecting', since: Date.now(), retryAt: null, why: '' },
  /** What this page may do: `operate`, or `look` with a reason. */
  access: { may: 'operate', why: '' },
  status: null,
  workers: null,
  names: [],
  stats: null,
  events: [],
  certificates: [],
  /** Rings of the charts' range. */
  rings: null,
  /** Rings of the last five minutes, for small charts and rates. */
  recent: null,
  /** Serial numbers of workers in samples, by upstream/worker. */
  serials: new Map(),
  range: '5m',
  toasts: [],
}

const listeners = new Set()
let due = false

/** Replaces pieces of the state; listeners are called once per frame. */
export function set(pieces) {
  Object.assign(state, pieces)
  if (due) return
  due = true
  queueMicrotask(() => {
    due = false
    listeners.forEach((listener) => listener())
  })
}

/** Calls a function after changes; returns a function that ends this. */
export function listen(listener) {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** Adds events, each once, in the order of their ids. */
export function addEvents(more) {
  const known = new Set(state.events.map((event) => event.id))
  const fresh = more.filter((event) => !known.has(event.id))
  if (fresh.length) set({ events: [...state.events, ...fresh].sort((a, b) => a.id - b.id).slice(-EVENTS) })
}

let numbered = 0

/** Shows a message for some seconds; errors stay longer. */
export function toast(text, tone = 'good') {
  numbered += 1
  const one = { text, tone, id: numbered }
  set({ toasts: [...state.toasts.slice(-3), one] })
  setTimeout(() => set({ toasts: state.toasts.filter((other) => other !== one) }), tone === 'bad' ? 12_000 : 5_000)
}

/** The serial number of a worker in the samples; undefined if there is none yet. */
export const serialOf = (worker) => state.serials.get(`${worker.upstream}/${worker.worker}`)
