// Numbers, times and names as people read them. Pure: the moment is an argument.

/** 1234567 → "1,234,567". */
export const count = (n) => (n == null || Number.isNaN(n) ? '–' : Math.round(n).toLocaleString('en-US'))

/** A rate or a percentage with as many decimals as it needs: 0.42, 4.2, 42. */
export function rate(n) {
  if (n == null || Number.isNaN(n)) return '–'
  if (n === 0) return '0'
  if (n < 1) return n.toFixed(2)
  if (n < 10) return n.toFixed(1)
  return count(n)
}

/** Bytes in binary units: 84934656 → "81 MiB". */
export function bytes(n) {
  if (n == null || Number.isNaN(n)) return '–'
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024
    unit += 1
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(n < 10 ? 1 : 0)} ${units[unit]}`
}

/** Milliseconds: 0.8 ms, 41 ms, 1.2 s. */
export function ms(n) {
  if (n == null || Number.isNaN(n)) return '–'
  if (n >= 1000) return `${(n / 1000).toFixed(1)} s`
  return `${n < 10 ? n.toFixed(1) : Math.round(n)} ms`
}

/** A span of seconds in at most two units: 42 s, 3 min 5 s, 2 h 10 min, 4 d 3 h. */
export function span(seconds) {
  if (seconds == null || Number.isNaN(seconds)) return '–'
  const s = Math.max(0, Math.round(seconds))
  if (s < 60) return `${s} s`
  const pair = (big, bigUnit, small, smallUnit) => (small ? `${big} ${bigUnit} ${small} ${smallUnit}` : `${big} ${bigUnit}`)
  if (s < 3600) return pair(Math.floor(s / 60), 'min', s < 600 ? s % 60 : 0, 's')
  if (s < 86400) return pair(Math.floor(s / 3600), 'h', Math.floor((s % 3600) / 60), 'min')
  return pair(Math.floor(s / 86400), 'd', Math.floor((s % 86400) / 3600), 'h')
}

const two = (n) => String(n).padStart(2, '0')

/** Time of day of a moment in ms; with the date if it is not from the same day as `now`. */
export function clock(at, now, withSeconds = true) {
  const time = new Date(at)
  const text = `${two(time.getHours())}:${two(time.getMinutes())}${withSeconds ? `:${two(time.getSeconds())}` : ''}`
  if (new Date(now).toDateString() === time.toDateString()) return text
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${text}`
}

/** One thing, or many: plural(2, "worker") → "2 workers". */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`

/** A list in words: "a", "a and b", "a, b and c", "a, b and 3 more". */
export function list(names, most = 3) {
  if (names.length > most) return `${names.slice(0, most - 1).join(', ')} and ${names.length - most + 1} more`
  if (names.length < 2) return names.join('')
  return `${names.slice(0, -1).join(', ')} and ${names[names.length - 1]}`
}

/** The first letter as a capital. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1)

/** A part of a command line, quoted if a shell would read it otherwise. */
export const shell = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${String(word).replaceAll("'", "'\\''")}'`)

/** The browser in a User-Agent, short: "Firefox 143", "Chrome 150", "node". */
export function agent(text) {
  if (!text) return ''
  const found = [/(Firefox|Edg|OPR|Chrome|CriOS|FxiOS)\/(\d+)/, /(Version)\/(\d+).*Safari/].map((one) => text.match(one)).find(Boolean)
  if (!found) return text.length > 28 ? `${text.slice(0, 27)}…` : text
  const names = { Edg: 'Edge', OPR: 'Opera', CriOS: 'Chrome', FxiOS: 'Firefox', Version: 'Safari' }
  // Edge and Opera call themselves Chrome as well.
  const more = text.match(/(Edg|OPR)\/(\d+)/)
  const [, name, version] = more ?? found
  return `${names[name] ?? name} ${version}`
}
