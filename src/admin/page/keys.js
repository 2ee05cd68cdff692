// Keys: one key, or `g` and a letter within a second. Pure: the time is an argument.
import { VIEWS } from './routes.js'

/** Every key for the help. */
export const KEYS = [
  ['/', 'search'],
  ...VIEWS.map(({ key, title }) => [`g ${key}`, title]),
  ['j  k', 'next, previous row or card'],
  ['Enter', 'open the selected row'],
  ['d', 'drain the selected worker, or close the selected socket'],
  ['t', 'light, dark, as the system'],
  ['Esc', 'close what is open'],
  ['?', 'this help'],
]

/** Time between `g` and its letter, in ms. */
const PATIENCE = 1000

/** Creates a reader of keys; it returns an action such as `{ go: 'workers' }`, or null. */
export function reader() {
  let since = -Infinity
  return (key, now) => {
    const second = now - since < PATIENCE
    since = -Infinity
    if (second) {
      const view = VIEWS.find((one) => one.key === key)
      return view ? { go: view.name } : null
    }
    if (key === 'g') {
      since = now
      return null
    }
    const actions = { '/': 'search', j: 'next', k: 'previous', d: 'act', t: 'theme', '?': 'help', Enter: 'open', Escape: 'leave' }
    return Object.hasOwn(actions, key) ? { [actions[key]]: true } : null
  }
}
