// Rings of samples per worker: equal steps of time, gaps stay gaps. Pure.

/** Fields whose last value counts in a step; of others, the mean. */
const GAUGES = new Set(['sessions', 'websockets', 'in_flight', 'cpu', 'memory'])

/** Ranges of the charts: the step in seconds, and the number of steps. */
export const RANGES = { '5m': { step: 1, steps: 300 }, '1h': { step: 10, steps: 360 }, '24h': { step: 60, steps: 1440 } }

/** The samples of all workers over one range. */
export class Rings {
  constructor(range, fields) {
    const { step, steps } = RANGES[range]
    Object.assign(this, { range, step, steps, fields, times: new Float64Array(steps).fill(NaN), workers: new Map() })
    this.trips = { p50: new Float32Array(steps).fill(NaN), p95: new Float32Array(steps).fill(NaN) }
    this.within = 0
  }

  /** The rings of a worker by field; they are made when it is first seen. */
  worker(serial) {
    let found = this.workers.get(serial)
    if (!found) {
      found = Object.fromEntries(this.fields.map((field) => [field, new Float32Array(this.steps).fill(NaN)]))
      this.workers.set(serial, found)
    }
    return found
  }

  /** The last moment with a sample, in seconds. */
  get last() {
    return this.times[this.steps - 1]
  }

  /** Adds the numbers of all workers at a moment: `[[serial, ...numbers]]`. */
  push(seconds, rows) {
    const at = Math.floor(seconds / this.step) * this.step
    if (at < this.last) return
    if (at === this.last) {
      this.within += 1
      for (const row of rows) this.merge(row)
      return
    }
    const missing = Number.isNaN(this.last) ? 1 : Math.min(this.steps, Math.round((at - this.last) / this.step))
    this.shift(missing, at)
    this.within = 1
    for (const [serial, ...numbers] of rows) {
      const rings = this.worker(serial)
      this.fields.forEach((field, place) => { rings[field][this.steps - 1] = numbers[place] ?? NaN })
    }
  }

  /** Notes the round trips of the newest sample, in ms; null without pings. */
  trip({ p50, p95 }) {
    this.trips.p50[this.steps - 1] = p50 ?? NaN
    this.trips.p95[this.steps - 1] = p95 ?? NaN
  }

  shift(by, at) {
    const move = (ring) => {
      ring.copyWithin(0, by)
      ring.fill(NaN, this.steps - by)
    }
    Object.values(this.trips).forEach(move)
    move(this.times)
    for (let i = 0; i < by; i += 1) this.times[this.steps - 1 - i] = at - i * this.step
    for (const [serial, rings] of this.workers) {
      let any = false
      for (const ring of Object.values(rings)) {
        move(ring)
        any = any || ring.some((value) => !Number.isNaN(value))
      }
      // A worker that left the range is forgotten.
      if (!any) this.workers.delete(serial)
    }
  }

  merge([serial, ...numbers]) {
    const rings = this.worker(serial)
    this.fields.forEach((field, place) => {
      const ring = rings[field]
      const before = ring[this.steps - 1]
      const value = numbers[place] ?? NaN
      const mean = Number.isNaN(before) ? value : before + (value - before) / this.within
      ring[this.steps - 1] = GAUGES.has(field) ? value : mean
    })
  }

  /** The sum of a field over workers at each moment; NaN where none has a value. */
  total(field, serials = [...this.workers.keys()]) {
    const sum = new Float64Array(this.steps).fill(NaN)
    for (const serial of serials) {
      const ring = this.workers.get(serial)?.[field]
      if (!ring) continue
      for (let i = 0; i < this.steps; i += 1) {
        if (!Number.isNaN(ring[i])) sum[i] = (Number.isNaN(sum[i]) ? 0 : sum[i]) + ring[i]
      }
    }
    return sum
  }

  /** The newest value of a field of one worker; null if there is none. */
  now(serial, field) {
    const value = this.workers.get(serial)?.[field]?.[this.steps - 1]
    return value == null || Number.isNaN(value) ? null : value
  }
}

/** Sockets of a worker: sessions hold their WebSockets, and plain WebSockets have no session. */
export const sockets = (rings, serial) => {
  const one = rings.workers.get(serial)
  return one ? one.sessions.map((value, at) => Math.max(value, one.websockets[at])) : null
}
