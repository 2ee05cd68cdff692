// Dialogs: one at a time, with the focus inside, closed by Escape.
import { useEffect, useRef, useState } from 'preact/hooks'
import { ApiError } from './api.js'
import { html, Icon } from './ui.js'
import { toast } from './store.js'

let show = () => {}

/** Opens a dialog: `content` is a component that gets `close`. */
export const open = (title, content) => show({ title, content })

/** The place of dialogs in the page. */
export function Dialogs() {
  const [one, setOne] = useState(null)
  const element = useRef(null)
  useEffect(() => { show = setOne }, [])
  useEffect(() => { if (one && !element.current.open) element.current.showModal() }, [one])
  if (!one) return null
  const close = () => {
    element.current?.close()
    setOne(null)
  }
  return html`<dialog ref=${element} aria-labelledby="dialog-title" onClose=${() => setOne(null)}
    onClick=${(event) => event.target === element.current && close()}>
    <div class="inside">
      <header><h2 id="dialog-title">${one.title}</h2>
        <button class="quiet" onClick=${close} aria-label="Close this dialog"><${Icon} name="close" /></button></header>
      <${one.content} close=${close} />
    </div></dialog>`
}

/** Runs an order and says how it went; returns whether it went well. */
export async function run(order, done) {
  try {
    const said = await order()
    toast(typeof done === 'function' ? done(said) : done)
    return true
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    toast(error.message, 'bad')
    return false
  }
}

/** Buttons at the end of a dialog; the order runs once. */
export function Buttons({ close, label, tone = 'primary', order, done, after, disabled }) {
  const [busy, setBusy] = useState(false)
  const go = async () => {
    setBusy(true)
    const fine = await run(order, done)
    setBusy(false)
    if (fine) {
      close()
      after?.()
    }
  }
  return html`<footer><button onClick=${close}>Cancel</button>
    <button class=${tone} disabled=${busy || disabled} onClick=${go}>${busy ? 'Working…' : label}</button></footer>`
}
