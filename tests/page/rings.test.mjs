// Samples and the stream that brings them.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Rings, add, newest } from './rings.js'
import { reader } from './frames.js'

const history = (workers, count = 5) => ({
  from: 1000, count, step_s: 1, range: '5m', gauges: ['sessions', 'websockets'], numbers: ['sessions', 'websockets', 'requests_per_s'],
  upstream_numbers: ['refusals_own_per_s', 'refusals_healed_per_s', 'refusals_forwarded_per_s', 'round_trip_p50_ms', 'round_trip_p95_ms'],
  upstreams: [], workers,
})

const empty = [null, null, null, null, null]

test('a history is read with its gaps', () => {
  const rings = new Rings(history([{ serial: 7, columns: [[1, 2, null, 4, 5], empty, empty] }]))
  assert.deepEqual([...rings.workers.get(7).sessions], [1, 2, NaN, 4, 5])
  assert.deepEqual([...rings.times], [1000, 1001, 1002, 1003, 1004])
  assert.equal(rings.now(7, 'sessions'), 5)
  assert.equal(rings.now(7, 'websockets'), null)
  assert.equal(rings.now(8, 'sessions'), null)
})

test('samples move the ring, and gaps stay gaps', () => {
  const rings = new Rings(history([{ serial: 7, columns: [[1, 2, 3, 4, 5], empty, empty] }]))
  rings.push(1005.4, [[7, 6, 6, 1]], [])
  rings.push(1008, [[7, 9, 9, 4]], [])
  assert.deepEqual([...rings.workers.get(7).sessions], [5, 6, NaN, NaN, 9])
  assert.deepEqual([...rings.times], [1004, 1005, 1006, 1007, 1008])
  rings.push(1002, [[7, 100, 0, 0]], [])
  assert.equal(rings.last, 1008, 'an old sample changes nothing')
})

test('samples that are rarer than steps are no gap', () => {
  const rings = new Rings(history([{ serial: 7, columns: [[1, 2, 3, 4, 5], empty, empty] }]))
  rings.push(1009, [[7, 9, 9, 4]], [], 5)
  assert.deepEqual([...rings.workers.get(7).sessions], [9, 9, 9, 9, 9])
})

test('within a step rates are means and gauges the last', () => {
  const rings = new Rings({ ...history([]), step_s: 10, from: 960 })
  for (const [t, sessions, requests] of [[1010, 1, 10], [1011, 2, 20], [1012, 3, 60]]) rings.push(t, [[7, sessions, 0, requests]], [])
  assert.equal(rings.now(7, 'sessions'), 3)
  assert.equal(rings.now(7, 'requests_per_s'), 30)
})

test('a worker that left the range is forgotten', () => {
  const rings = new Rings(history([{ serial: 7, columns: [[1, null, null, null, null], empty, empty] }]))
  rings.push(1005, [[8, 1, 1, 1]], [])
  assert.deepEqual([...rings.workers.keys()], [8])
})

test('sums, sockets, refusals and round trips', () => {
  const rings = new Rings(history([{ serial: 1, columns: [[1, 1, 1, 1, 1], [0, 0, 3, 0, 0], empty] }, { serial: 2, columns: [[2, null, 2, 2, 2], empty, empty] }]))
  assert.deepEqual([...rings.total('sessions')], [3, 1, 3, 3, 3])
  assert.deepEqual([...rings.sockets(1)], [1, 1, 3, 1, 1])
  assert.equal(rings.sockets(9), null)
  rings.push(1005, [], [[1, 0, 2, 1, 3, 40], [2, 1, 0, 0, 5, 80]])
  assert.deepEqual(rings.refusals(), { own: 1, healed: 2, forwarded: 1 })
  assert.deepEqual([newest(rings.trips().p50), newest(rings.trips().p95)], [5, 80])
  assert.deepEqual([...add([[NaN, 1], [NaN, 2]], 2)], [NaN, 3])
})

test('a stream in pieces is the same events', () => {
  const text = ': hello\n\nevent: sample\ndata: {"a":\ndata: 1}\nid: 7\n\nevent: event\r\ndata:x\r\n\r\ndata: no name\n\nevent: empty\n\n'
  const expected = [
    { event: 'sample', data: '{"a":\n1}', id: '7' }, { event: 'event', data: 'x', id: '7' }, { event: 'message', data: 'no name', id: '7' },
  ]
  for (const size of [1, 2, 3, 7, text.length]) {
    const seen = []
    const read = reader((one) => seen.push(one))
    for (let at = 0; at < text.length; at += size) read(text.slice(at, at + size))
    assert.deepEqual(seen, expected, `pieces of ${size}`)
  }
})
