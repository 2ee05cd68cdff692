// A program of a user of the admin API, with the types of the npm package: it reads the API of a running stickyd, and
// drains a worker. `node consumer.mjs ADMIN TOKEN`; compiled by tests/packaging.rs.
import { binary, busPreload, type Status } from 'stickyd'
import type { Paths, Worker } from 'stickyd/admin-api'

declare const process: { argv: string[] }

/** The answer of a GET, if it succeeds. */
type Got<P extends keyof Paths> = Paths[P] extends { get: { answers: { 200: infer Answer } } } ? Answer : never
type Drain = Paths['/api/v1/workers/{upstream}/{worker}/{word}']['post']

const [, , base = '', token = ''] = process.argv

async function get<P extends keyof Paths>(path: P): Promise<Got<P>> {
  const answer = await fetch(new URL(path, base))
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`)
  return (await answer.json()) as Got<P>
}

async function drain(worker: Worker, body: Drain['body']): Promise<Drain['answers'][200]> {
  const path = `/api/v1/workers/${worker.upstream}/${worker.worker}/drain`
  const headers = { 'Authorization': `Bearer ${token}`, 'Content-Type': 'application/json', 'X-Stickyd': '1' }
  const answer = await fetch(new URL(path, base), { method: 'POST', headers, body: JSON.stringify(body) })
  if (!answer.ok) throw new Error(((await answer.json()) as Drain['answers'][404]).error)
  return (await answer.json()) as Drain['answers'][200]
}

const status: Status = await get('/api/v1/status')
const { workers } = await get('/api/v1/workers')
const [first] = workers
if (!first) throw new Error('there is no worker')
const drained = await drain(first, { grace: '60s' })
console.log(JSON.stringify({ version: status.version, admin: drained.admin, paths: [binary(), busPreload] }))

// What the API does not have is an error, in the kinds of mistakes that a user makes.
// @ts-expect-error
get('/api/v1/no-such-path').catch(() => {})
// @ts-expect-error
export const misspelt = first.helth
// @ts-expect-error
export const never = first.health === 'asleep'
// @ts-expect-error
export const unset: number = first.ejected_for_ms
// @ts-expect-error
export const body: Drain['body'] = { grace: 60 }
