// The search of sockets: `label:store=7 worker:w1 state:suspect min_age:2h`, as the API's filter and as options of the
// command line. Pure.
import { shell } from './words.js'

/** Conditions of the API's filter (`GET /api/v1/sockets`), and short names for some. */
export const CONDITIONS = ['upstream', 'worker', 'address', 'state', 'transport', 'protocol', 'sid', 'route', 'min_age']
const SHORT = { ip: 'address', client: 'address', age: 'min_age', up: 'upstream' }

/** Splits at spaces, except inside double quotes. */
function split(text) {
  return (text.match(/(?:"[^"]*"|[^\s"])+/g) ?? []).map((word) => word.replaceAll('"', ''))
}

/** Reads a search: `{ filter, id, error }`. A bare word is an address, a socket's id, or a session's id. */
export function parse(text) {
  const filter = {}
  const wrong = (error) => ({ filter: {}, id: null, error })
  let id = null
  for (const word of split(text)) {
    const at = word.indexOf(':')
    const name = at < 0 ? '' : word.slice(0, at).toLowerCase()
    const value = word.slice(at + 1)
    if (name === 'label' || name === 'l') {
      const equals = value.indexOf('=')
      if (equals < 1) return wrong(`Write a label as label:NAME=VALUE, not ${word}`)
      filter[`label.${value.slice(0, equals)}`] = value.slice(equals + 1)
    } else if (CONDITIONS.includes(SHORT[name] ?? name)) {
      if (!value) return wrong(`${name}: needs a value`)
      filter[SHORT[name] ?? name] = value
    } else if (isAddress(word)) {
      filter.address = word
    } else if (/^[0-9a-z]{4,16}$/.test(word)) {
      id = word
    } else if (!name && /^[\w-]{17,}$/.test(word)) {
      filter.sid = word
    } else {
      const known = ['label:NAME=VALUE', ...CONDITIONS.map((one) => `${one}:`)].join(' ')
      return wrong(`“${word}” is not a condition. Conditions are ${known}; an address and a session id need no name.`)
    }
  }
  return { filter, id, error: null }
}

function isAddress(word) {
  return /^\d{1,3}(\.\d{1,3}){3}(\/\d+)?$/.test(word) || (/^[0-9a-f:.]+(\/\d+)?$/i.test(word) && (word.match(/:/g) ?? []).length > 1)
}

/** Writes a filter as a search. */
export function write(filter) {
  const quoted = (value) => (/\s/.test(value) ? `"${value}"` : value)
  return Object.entries(filter)
    .map(([name, value]) => (name.startsWith('label.') ? `label:${name.slice(6)}=${quoted(value)}` : `${name}:${quoted(value)}`))
    .join(' ')
}

/** Writes a filter as options of `stickyd sockets` and `stickyd close`. */
export function options(filter) {
  return Object.entries(filter)
    .map(([name, value]) =>
      name.startsWith('label.') ? `--label ${shell(`${name.slice(6)}=${value}`)}` : `--${name.replaceAll('_', '-')} ${shell(value)}`)
    .join(' ')
}
