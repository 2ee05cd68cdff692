// Numbers, times, searches, pasted questions, routes and keys: what people read and write on the page.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as words from './words.js'
import * as routes from './routes.js'
import * as search from './search.js'
import { read } from './question.js'
import { reader } from './keys.js'

test('spans have at most two units', () => {
  for (const [seconds, text] of [[0, '0 s'], [-3, '0 s'], [59.4, '59 s'], [60, '1 min'], [185, '3 min 5 s'], [605, '10 min'],
    [7800, '2 h 10 min'], [86400, '1 d'], [90000, '1 d 1 h'], [null, '–'], [NaN, '–']]) {
    assert.equal(words.span(seconds), text)
  }
})

test('numbers are short and never of a false precision', () => {
  assert.deepEqual([0, 0.424, 4.24, 42.4, 1234.5, null].map(words.rate), ['0', '0.42', '4.2', '42', '1,235', '–'])
  assert.deepEqual([0, 1023, 1024, 84934656, 5e9].map(words.bytes), ['0 B', '1023 B', '1.0 KiB', '81 MiB', '4.7 GiB'])
  assert.deepEqual([0.84, 41.2, 1234].map(words.ms), ['0.8 ms', '41 ms', '1.2 s'])
  assert.equal(words.plural(1, 'worker'), '1 worker')
  assert.equal(words.plural(2000, 'worker'), '2,000 workers')
})

test('lists name some and count the rest', () => {
  assert.deepEqual([[], ['a'], ['a', 'b'], ['a', 'b', 'c'], ['a', 'b', 'c', 'd']].map((names) => words.list(names)),
    ['', 'a', 'a and b', 'a, b and c', 'a, b and 2 more'])
})

test('words of a command line are quoted where a shell would read them', () => {
  assert.equal(words.shell('app/w1'), 'app/w1')
  assert.equal(words.shell('a b'), "'a b'")
  assert.equal(words.shell("it's; rm"), "'it'\\''s; rm'")
  assert.equal(words.shell(''), "''")
})

test('a moment of another day has its date', () => {
  const at = new Date(2026, 10, 28, 9, 5, 7).getTime()
  assert.equal(words.clock(at, at + 1000), '09:05:07')
  assert.equal(words.clock(at, at + 86_400_000), '2026-11-28 09:05:07')
  assert.equal(words.clock(at, at, false), '09:05')
})

test('browsers are named shortly', () => {
  assert.equal(words.agent('Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0'), 'Firefox 143')
  assert.equal(words.agent('Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36 Edg/150.0.1'), 'Edge 150')
  assert.equal(words.agent('Mozilla/5.0 (iPhone) AppleWebKit/605 (KHTML, like Gecko) Version/19.1 Mobile/15 Safari/604.1'), 'Safari 19')
  assert.equal(words.agent('node'), 'node')
  assert.equal(words.agent(null), '')
})

test('routes go there and back', () => {
  for (const hash of ['#/overview', '#/workers/app/unix%3A%2Frun%2Fa.sock', '#/sockets?q=label%3Astore%3D7&sort=-bytes']) {
    const { view, rest, query } = routes.parse(hash)
    assert.equal(routes.link(view, rest, query), hash)
  }
  assert.equal(routes.parse('').view, 'overview')
  assert.equal(routes.parse('#/nothing/x').view, 'overview')
  assert.deepEqual(routes.parse('#/workers/%E0%A4%A').rest, ['%E0%A4%A'])
  assert.equal(routes.link('sockets', [], { q: '', sort: null }), '#/sockets')
})

test('a search is a filter of the API', () => {
  assert.deepEqual(search.parse('label:store=7 worker:w1 state:suspect min_age:2h').filter,
    { 'label.store': '7', worker: 'w1', state: 'suspect', min_age: '2h' })
  assert.deepEqual(search.parse('label:name="a b" 10.0.0.0/8').filter, { 'label.name': 'a b', address: '10.0.0.0/8' })
  assert.deepEqual(search.parse('2001:db8::1').filter, { address: '2001:db8::1' })
  assert.deepEqual(search.parse('U5KBuAZD9-LsPcr1AAAB').filter, { sid: 'U5KBuAZD9-LsPcr1AAAB' })
  assert.deepEqual(search.parse('worker:unix:/run/a.sock').filter, { worker: 'unix:/run/a.sock' })
  assert.equal(search.parse('g000067').id, 'g000067')
  assert.deepEqual(search.parse('').filter, {})
})

test('a wrong search is explained', () => {
  assert.match(search.parse('colour:blue').error, /“colour:blue” is not a condition/)
  assert.match(search.parse('label:store').error, /label:NAME=VALUE/)
  assert.match(search.parse('worker:').error, /needs a value/)
})

test('a filter is written as a search and as options', () => {
  const filter = { 'label.name': 'a b', worker: 'w1', min_age: '2h' }
  assert.deepEqual(search.parse(search.write(filter)).filter, filter)
  assert.equal(search.options(filter), "--label 'name=a b' --worker w1 --min-age 2h")
})

test('what is pasted into Explain is recognised', () => {
  const query = (text) => read(text).query
  assert.deepEqual(query('https://app.example/socket.io/?EIO=4&transport=polling&sid=abc%2Bd'), { sid: 'abc+d' })
  assert.deepEqual(query('GET /socket.io/?EIO=4&sid=x HTTP/1.1'), { sid: 'x' })
  assert.deepEqual(query('wss://app.example/socket.io/?EIO=4&transport=websocket'), {})
  assert.deepEqual(query('https://app.example/index.html'), { kind: 'request' })
  assert.deepEqual(query('Cookie: a=b; stickyd_app=w7CX05; c=d'), { cookie: 'stickyd_app=w7CX05' })
  assert.deepEqual(query('203.0.113.9'), { address: '203.0.113.9' })
  assert.deepEqual(query('2001:db8::1'), { address: '2001:db8::1' })
  assert.deepEqual(query(' U5KBuAZD9-LsPcr1AAAB\n'), { sid: 'U5KBuAZD9-LsPcr1AAAB' })
  assert.match(read('Cookie: a=b').error, /stickyd/)
  assert.match(read('why is it slow').error, /neither/)
})

test('keys are one, or g and a letter in time', () => {
  const read = reader()
  assert.deepEqual(read('/', 0), { search: true })
  assert.equal(read('g', 100), null)
  assert.deepEqual(read('w', 900), { go: 'workers' })
  assert.equal(read('g', 1000), null)
  assert.equal(read('w', 3000), null)
  assert.equal(read('g', 4000), null)
  assert.equal(read('z', 4100), null)
  assert.deepEqual(read('j', 4200), { next: true })
  assert.equal(read('constructor', 4300), null)
})
