// Requests to the admin API of the same origin: the token or key goes along, refusals become words.

/** Names in the session storage: both are forgotten with the tab. */
const TOKEN = 'stickyd.token'
const KEY = 'stickyd.key'

/** Time for an answer, in ms. */
const PATIENCE = 20_000

/** A refusal, or no answer: `status` is 0 without one. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message)
    this.status = status
  }
}

export const token = () => sessionStorage.getItem(TOKEN) ?? ''

/** Keeps the token for this tab; an empty one is forgotten. */
export function keepToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text)
  else sessionStorage.removeItem(TOKEN)
}

/** Takes the key of `stickyd page` out of the address, so that it is in no history. */
export function takeKey() {
  const found = location.hash.match(/^#key=([\w-]+)/)
  if (!found) return
  sessionStorage.setItem(KEY, found[1])
  globalThis.history.replaceState(null, '', `${location.pathname}#/overview`)
}

/** Fields of every request. */
export function fields() {
  const own = {}
  if (token()) own.Authorization = `Bearer ${token()}`
  if (sessionStorage.getItem(KEY)) own['X-Stickyd-Key'] = sessionStorage.getItem(KEY)
  return own
}

const heard = new Set()

/** Calls a function with each answer's head. */
export const onAnswer = (listener) => heard.add(listener)

/** Asks for a path; the answer is its JSON, or its text. */
export async function ask(path, { method = 'GET', body, signal } = {}) {
  const headers = fields()
  if (method !== 'GET') Object.assign(headers, { 'Content-Type': 'application/json', 'X-Stickyd': '1' })
  const ends = AbortSignal.timeout(PATIENCE)
  let answer
  try {
    answer = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: 'no-store', redirect: 'error',
      signal: signal ? AbortSignal.any([signal, ends]) : ends,
    })
  } catch (error) {
    throw new ApiError(error.name === 'TimeoutError' ? 'stickyd gave no answer in 20 s' : 'stickyd cannot be reached', 0)
  }
  heard.forEach((listener) => listener(answer))
  const text = await answer.text()
  const isJson = answer.headers.get('content-type')?.includes('json')
  const said = isJson && text ? JSON.parse(text) : text
  if (!answer.ok) throw new ApiError((isJson ? said.error : text.trim()) || `stickyd answered ${answer.status}`, answer.status)
  return said
}

/** A path with query parameters. */
export function path(base, query = {}) {
  const text = new URLSearchParams(query).toString()
  return text ? `${base}?${text}` : base
}

const part = encodeURIComponent

export const status = () => ask('/api/v1/status')
export const workers = () => ask('/api/v1/workers')
export const stats = () => ask('/api/v1/stats')
export const metrics = () => ask('/metrics')
export const sockets = (query, signal) => ask(path('/api/v1/sockets', query), { signal })
export const socket = (id) => ask(`/api/v1/sockets/${part(id)}`)
export const explain = (query) => ask(path('/api/v1/explain', query))
export const history = (query) => ask(path('/api/v1/history', query))
export const events = (query) => ask(path('/api/v1/events', query))
export const log = () => ask('/api/v1/log')
export const closings = () => ask('/api/v1/sockets/close')

/** Sets a worker's admin state: drain, maint or ready. */
export const setWorker = (worker, word, body) =>
  ask(`/api/v1/workers/${part(worker.upstream)}/${part(worker.worker)}/${word}`, { method: 'POST', body: body ?? {} })
export const closeSocket = (id, body) => ask(`/api/v1/sockets/${part(id)}/close`, { method: 'POST', body })
export const closeSockets = (body) => ask('/api/v1/sockets/close', { method: 'POST', body })
export const broadcast = (body) => ask('/api/v1/broadcast', { method: 'POST', body })
export const reload = () => ask('/api/v1/reload', { method: 'POST', body: {} })
export const setLog = (level) => ask('/api/v1/log', { method: 'PUT', body: { level } })
