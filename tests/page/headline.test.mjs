// The first sentence of the overview: what is wrong, since when, and what to do.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { headline, problems } from './headline.js'
import { drained, stateOf } from './workerstate.js'

const now = 1_764_328_800_000

function worker(name, change = {}) {
  const one = {
    upstream: 'app', worker: name, address: '127.0.0.1:3001', admin: 'ready', health: 'up', ejected: false, drain: null,
    last_ejection: null, sessions: 10, tunnels: 8, takes_new: true, serves: true, shares_address: false,
    why: { health: 'its checks pass', admin: 'no other state is set', ejection: 'never' },
  }
  const made = { ...one, ...change }
  if (made.health !== 'up' || made.admin !== 'ready' || made.ejected) made.takes_new = false
  return made
}

const status = {
  stopping: false, sockets: { held: 20, limit: 1000 }, pins: { held: 20, limit: 1000 }, descriptors: { held: 50, limit: 1024 },
  replay_bytes: { held: 0, limit: 1000 }, config: { error: null, needs_restart: [], file: '/etc/stickyd/stickyd.toml' },
}

const down = (name, seconds) => ({ id: 1, kind: 'worker_down', upstream: 'app', worker: name, at: now - seconds * 1000 })
const said = (input) => headline({ status, now, live: '20 sockets are open.', ...input })

test('calm is one short sentence', () => {
  const { level, title, detail, others } = said({ workers: [worker('w1'), worker('w2')] })
  assert.deepEqual([level, title, others], ['good', 'All 2 workers are up.', []])
  assert.equal(detail, '20 sockets are open. Nothing needs your attention.')
  assert.equal(said({ workers: [worker('w1')] }).title, 'The worker is up.')
})

test('a hung worker is named with since when and what to do', () => {
  const one = said({ workers: [worker('w1'), worker('w2', { health: 'hung' })], events: [down('w2', 40)] })
  assert.equal(one.title, 'app/w2 has not answered for 40 s: restart it, or move its clients away.')
  assert.equal(one.level, 'bad')
  assert.equal(one.command, 'stickyd maint app/w2')
  assert.match(one.detail, /10 sessions wait there\. New clients go to 1 other worker/)
})

test('a worker that is gone is to be started', () => {
  const one = said({ workers: [worker('w1'), worker('w2', { health: 'gone', address: '127.0.0.1:3002' })], events: [down('w2', 185)] })
  assert.equal(one.title, 'app/w2 has been gone for 3 min 5 s: start it again.')
  assert.equal(one.command, "ss -ltnp 'sport = :3002'")
})

test('an upstream without workers comes first', () => {
  const workers = [worker('w1', { health: 'gone' }), worker('w2', { health: 'hung' }), worker('x', { upstream: 'other', health: 'hung' }), worker('y', { upstream: 'other' })]
  const one = said({ workers, events: [down('w1', 90), { id: 2, kind: 'upstream_empty', upstream: 'app', at: now - 60_000 }] })
  assert.equal(one.title, 'app has had no worker for new sessions for 1 min: start one of its workers.')
  assert.ok(one.others.some(({ what }) => what.startsWith('other/x has not answered')))
})

test('an upstream that was drained whole is taken back into service', () => {
  const drain = { since_s: 30, sessions_left: 3, sessions_at_start: 10, tunnels_left: 3, grace_s: null, ends_in_s: null }
  const one = said({ workers: [worker('w1', { admin: 'drain', drain })] })
  assert.match(one.title, /take one back into service/)
  assert.equal(one.command, 'stickyd ready app/w1')
})

test('unused ports are no problem, and no workers at all is said', () => {
  const unused = worker('w9', { health: 'gone', why: { health: 'no process has listened there', admin: '', ejection: '' } })
  assert.equal(said({ workers: [worker('w1'), unused] }).title, 'The worker is up.')
  assert.match(said({ workers: [unused] }).title, /^No worker has listened yet: start/)
  assert.equal(stateOf(unused).word, 'unused')
})

test('a drain is told below a calm sentence', () => {
  const drain = { since_s: 30, sessions_left: 3, sessions_at_start: 10, tunnels_left: 3, grace_s: 60, ends_in_s: 30 }
  const one = said({ workers: [worker('w1'), worker('w2', { admin: 'drain', drain })] })
  assert.equal(one.level, 'good')
  assert.equal(one.title, '1 of 2 workers take new sessions; the rest was told to stop.')
  assert.equal(one.others[0].what, 'app/w2 has been draining')
  assert.equal(drained(drain), 0.7)
})

test('limits, certificates, the file and lost sessions are told', () => {
  const full = { ...status, descriptors: { held: 1000, limit: 1024 }, config: { ...status.config, error: 'unknown key' } }
  const certificates = [{ name: 'app.example', ends: now + 3 * 86_400_000 }, { name: 'far.example', ends: now + 90 * 86_400_000 }]
  const found = problems({ status: full, workers: [worker('w1')], certificates, refused: 12, now }).map(({ what }) => what)
  assert.deepEqual(found, [
    'File descriptors: 1,000 of 1,024 in use',
    'The edited configuration is not in use, because it has errors',
    'The certificate of app.example ends in 3 d',
    '12 requests got “Session ID unknown” within 5 minutes',
  ])
  const gone = said({ workers: [worker('w1')], certificates: [{ name: 'a', ends: now - 3_600_000 }] })
  assert.equal(gone.title, 'The certificate of a has expired for 1 h: renew it.')
  assert.equal(gone.level, 'bad')
})

test('many ill workers of one upstream are one sentence', () => {
  const workers = [1, 2, 3, 4].map((n) => worker(`w${n}`, { health: 'gone' })).concat(worker('w5'))
  assert.equal(said({ workers, events: [down('w1', 20), down('w2', 30)] }).title, '4 workers of app have been gone for 30 s: start them again.')
})
