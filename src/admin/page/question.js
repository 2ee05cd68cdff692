// What was pasted into Explain: a failing address, a Cookie field, a session id or the address of a client. Pure.

/** Reads a paste: `{ query, words, error }`, where `query` is that of `GET /api/v1/explain`. */
export function read(text) {
  const pasted = text.trim().replace(/^(GET|POST|OPTIONS)\s+/, '').replace(/\s+HTTP\/\d(\.\d)?$/, '')
  if (!pasted) return { query: {}, words: 'a new client', error: null }
  const url = address(pasted)
  if (url) {
    const sid = url.searchParams.get('sid')
    if (sid) return { query: { sid }, words: `the session ${sid} in the address`, error: null }
    if (url.searchParams.has('EIO')) return { query: {}, words: 'a handshake: the address has no sid yet', error: null }
    return { query: { kind: 'request' }, words: 'an ordinary request: the address has neither sid nor EIO', error: null }
  }
  const cookie = pasted.replace(/^cookie:\s*/i, '').split(/;\s*/).find((pair) => /^stickyd[\w-]*=/.test(pair))
  if (cookie) return { query: { cookie }, words: 'stickyd’s cookie', error: null }
  if (/^cookie:|^[\w-]+=/i.test(pasted)) {
    return { query: {}, words: '', error: 'None of these cookies is stickyd’s: its name begins with “stickyd”.' }
  }
  if (/^\d{1,3}(\.\d{1,3}){3}$/.test(pasted) || (/^[0-9a-f:.]+$/i.test(pasted) && pasted.split(':').length > 2)) {
    return { query: { address: pasted }, words: `a new client at ${pasted}`, error: null }
  }
  if (/\s/.test(pasted)) return { query: {}, words: '', error: 'This is neither an address, a cookie nor a session id.' }
  return { query: { sid: pasted }, words: `the session ${pasted}`, error: null }
}

/** An address with a host, or the path of one. */
function address(text) {
  if (!/^(https?|wss?):\/\//i.test(text) && !text.startsWith('/')) return null
  try {
    return new URL(text, 'http://localhost')
  } catch {
    return null
  }
}
