// Charts on a canvas by uPlot, and sparklines as paths. A chart's legend shows the newest values as text.
import { useEffect, useRef, useState } from 'preact/hooks'
import { html } from './ui.js'
import { clock } from './words.js'

/** Height of a chart, in CSS pixels. */
const HEIGHT = 170

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()

/** NaN is a gap. */
const plain = (values) => Array.from(values, (value) => (Number.isNaN(value) ? null : value))

/** Sums from the first series on, for areas on top of each other. */
export function stack(all) {
  const sum = []
  return all.map((values) => values.map((value, at) => {
    if (value == null) return null
    sum[at] = (sum[at] ?? 0) + value
    return sum[at]
  }))
}

/** Makes a chart. `series`: `[{ label, values, color, dash }]`; `format` writes a value. */
export function Chart({ title, times, series, stacked = false, mirrored = false, format, empty, theme }) {
  const place = useRef(null)
  const chart = useRef(null)
  const [at, setAt] = useState(null)
  const values = series.map((one) => plain(one.values))
  const drawn = stacked ? stack(values) : values
  const shape = JSON.stringify([series.map((one) => [one.label, one.color, one.dash]), theme, stacked])
  useEffect(() => {
    const made = new globalThis.uPlot(optionsOf({ series, stacked, mirrored, format, width: place.current.clientWidth, setAt }),
      [plain(times), ...drawn], place.current)
    chart.current = made
    const resize = new ResizeObserver(() => made.setSize({ width: place.current?.clientWidth || 300, height: HEIGHT }))
    resize.observe(place.current)
    return () => {
      resize.disconnect()
      made.destroy()
    }
  }, [shape])
  useEffect(() => { chart.current.setData([plain(times), ...drawn]) })
  const last = at ?? times.length - 1
  const none = values.every((one) => one.every((value) => value == null))
  const when = at == null || Number.isNaN(times[at]) ? '' : clock(times[at] * 1000, Date.now())
  return html`<figure class="chart">
    <figcaption><span class="title">${title}</span><span class="when">${when}</span></figcaption>
    <div class="canvas" ref=${place} aria-hidden="true">${none && html`<p class="none">${empty ?? 'No samples yet'}</p>`}</div>
    <ul class="legend">${series.map((one, i) => html`<li key=${one.label}>
      <span class="swatch ${one.dash ? 'dashed' : ''}" style=${{ background: one.dash ? 'none' : `var(--${one.color})`, color: `var(--${one.color})` }}></span>
      <span>${one.label}</span> <b>${format(Math.abs(values[i][last] ?? NaN))}</b></li>`)}</ul>
  </figure>`
}

function optionsOf({ series, stacked, mirrored, format, width, setAt }) {
  const grid = { stroke: color('grid'), width: 1 }
  const ticks = { show: false }
  const font = `11px ${getComputedStyle(document.body).fontFamily}`
  const axis = { stroke: color('soft'), grid, ticks, font }
  const top = (most) => (most > 0 ? most * 1.12 : 1)
  const range = mirrored
    ? (_, low, high) => { const most = top(Math.max(-low || 0, high || 0)); return [-most, most] }
    : (_, low, high) => [0, top(high ?? 0)]
  return {
    width: width || 300,
    height: HEIGHT,
    padding: [8, 16, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: 'stickyd' }, y: false, points: { size: 6 }, drag: { setScale: false, x: false } },
    hooks: { setCursor: [(plot) => setAt(plot.cursor.left >= 0 ? plot.cursor.idx ?? null : null)] },
    scales: { x: { time: true }, y: { range } },
    axes: [
      { ...axis, grid: { show: false }, space: 64, size: 26, gap: 6, values: (_, marks) => marks.map((mark) => clock(mark * 1000, mark * 1000, false)) },
      { ...axis, size: 48, space: 34, gap: 6, values: (_, marks) => marks.map((mark) => format(Math.abs(mark))) },
    ],
    series: [{}, ...series.map((one, i) => ({
      stroke: color(one.color), width: 1.6, dash: one.dash ? [5, 4] : undefined, spanGaps: false, points: { show: false },
      fill: (stacked && i === 0) || (!stacked && !one.dash) ? `color-mix(in srgb, ${color(one.color)} ${stacked ? 26 : 14}%, transparent)` : undefined,
    }))],
    bands: stacked ? series.slice(1).map((one, i) => ({
      series: [i + 2, i + 1], fill: `color-mix(in srgb, ${color(one.color)} 26%, transparent)`,
    })) : undefined,
  }
}

/** A small curve: the newest value stands beside it as text, so it is hidden from readers of the page. */
export function Spark({ values, tone = 'accent' }) {
  const points = values ? plain(values) : []
  const most = Math.max(1e-9, ...points.map((value) => value ?? 0))
  const step = 100 / Math.max(1, points.length - 1)
  let line = ''
  let area = ''
  let from = null
  const close = (to) => { if (from != null) area += `${line.slice(from)} L${(to * step).toFixed(1)} 24 L${areaX} 24 Z` }
  let areaX = 0
  points.forEach((value, at) => {
    if (value == null) {
      close(at - 1)
      from = null
      return
    }
    const x = (at * step).toFixed(1)
    const y = (22 - (value / most) * 19).toFixed(1)
    if (from == null) {
      from = line.length
      areaX = x
      line += `M${x} ${y}`
    } else {
      line += ` L${x} ${y}`
    }
  })
  close(points.length - 1)
  return html`<svg class="spark ${tone}" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">
    <path class="area" d=${area} /><path class="line" d=${line} /></svg>`
}
