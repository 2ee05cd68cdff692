// The hash of the page's address: `#/sockets?q=worker:w1&sort=-bytes`. Pure.

/** Every view with its path, its title and the letter after `g`. */
export const VIEWS = [
  { name: 'overview', title: 'Overview', key: 'o' },
  { name: 'workers', title: 'Workers', key: 'w' },
  { name: 'sockets', title: 'Sockets', key: 's' },
  { name: 'labels', title: 'Labels', key: 'l' },
  { name: 'events', title: 'Events', key: 'e' },
  { name: 'explain', title: 'Explain', key: 'x' },
  { name: 'config', title: 'Configuration', key: 'c' },
  { name: 'say', title: 'Say', key: 'b' },
]

/** Reads a hash; an unknown view is the overview. */
export function parse(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?')
  const [view, ...rest] = path.split('/').map(decode)
  const known = VIEWS.some(({ name }) => name === view)
  return { view: known ? view : 'overview', rest: known ? rest.filter(Boolean) : [], query: Object.fromEntries(new URLSearchParams(query)) }
}

/** A bad escape stays as it is typed. */
function decode(part) {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

/** Writes a hash; parameters that are empty are left out. */
export function link(view, rest = [], query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== '' && value != null)
  const text = new URLSearchParams(given).toString()
  return `#/${[view, ...rest].map(encodeURIComponent).join('/')}${text && `?${text}`}`
}
