// Server-sent events out of pieces of text (HTML Standard §9.2.6), because EventSource cannot send Authorization. Pure.

/** Longest event that is kept, in characters: a snapshot of 1,000 workers with their history has some millions. */
const LONGEST = 64 * 1024 * 1024

/** Creates a reader; `tell({ event, data, id })` is called for each event. */
export function reader(tell) {
  let left = ''
  let event = { event: 'message', data: [], id: null }
  const line = (text) => {
    if (text === '') {
      if (event.data.length) tell({ ...event, data: event.data.join('\n') })
      event = { event: 'message', data: [], id: event.id }
      return
    }
    if (text.startsWith(':')) return
    const at = text.indexOf(':')
    const name = at < 0 ? text : text.slice(0, at)
    const value = at < 0 ? '' : text.slice(at + 1).replace(/^ /, '')
    if (name === 'data') event.data.push(value)
    else if (name === 'event') event.event = value
    else if (name === 'id') event.id = value
  }
  return (piece) => {
    left += piece
    if (left.length > LONGEST) throw new Error('an event of the live stream is too long')
    // A carriage return at the end may be half of a line's end.
    let from = 0
    const ends = /\r\n|\n|\r(?!$)/g
    for (let found = ends.exec(left); found; found = ends.exec(left)) {
      line(left.slice(from, found.index))
      from = ends.lastIndex
    }
    left = left.slice(from)
  }
}
