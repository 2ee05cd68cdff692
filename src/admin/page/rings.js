// Rings of samples per worker and upstream: equal steps of time, gaps stay gaps. Pure.

/** An object with a ring of `steps` values per field. */
const ringsOf = (fields, steps) => Object.fromEntries(fields.map((field) => [field, new Float32Array(steps).fill(NaN)]))

/** A value of the API: null is a gap. */
const value = (given) => given ?? NaN

/** The samples of all workers and upstreams over one range of time, as `GET /api/v1/history` tells it. */
export class Rings {
  constructor(history) {
    const { from, count, step_s: step, gauges, numbers, upstream_numbers: upstreamNumbers } = history
    Object.assign(this, { step, steps: count, fields: numbers, upstreamFields: upstreamNumbers, gauges: new Set(gauges) })
    this.times = Float64Array.from({ length: count }, (_, at) => from + at * step)
    const read = (all, fields) => new Map(all.map(({ serial, columns }) =>
      [serial, Object.fromEntries(fields.map((field, place) => [field, Float32Array.from(columns[place], value)]))]))
    this.workers = read(history.workers, numbers)
    this.upstreams = read(history.upstreams, upstreamNumbers)
    /** Number of samples in the newest step. */
    this.within = 1
  }

  /** The beginning of the newest step, in seconds. */
  get last() {
    return this.times[this.steps - 1]
  }

  /** Adds a sample that stands for `every` seconds: rows of a serial and the numbers, as the live stream has them. */
  push(seconds, workers, upstreams, every = 1) {
    const at = Math.floor(seconds / this.step) * this.step
    if (at < this.last) return
    const moved = Math.min(this.steps, Math.round((at - this.last) / this.step))
    if (moved > 0) this.shift(moved, at)
    this.within = moved > 0 ? 1 : this.within + 1
    // Samples that are rarer than steps are no gap.
    const filled = moved > 1 && moved * this.step <= every * 1.5 ? moved : 1
    this.merge(this.workers, this.fields, workers, filled)
    this.merge(this.upstreams, this.upstreamFields, upstreams, filled)
  }

  shift(by, at) {
    this.times.forEach((_, place) => { this.times[place] = at - (this.steps - 1 - place) * this.step })
    for (const all of [this.workers, this.upstreams]) {
      for (const [serial, rings] of all) {
        let known = false
        for (const ring of Object.values(rings)) {
          ring.copyWithin(0, by)
          ring.fill(NaN, this.steps - by)
          known = known || ring.some((one) => !Number.isNaN(one))
        }
        // A worker that left the range is forgotten.
        if (!known) all.delete(serial)
      }
    }
  }

  merge(all, fields, rows, filled) {
    for (const [serial, ...numbers] of rows) {
      if (!all.has(serial)) all.set(serial, ringsOf(fields, this.steps))
      const rings = all.get(serial)
      fields.forEach((field, place) => {
        const ring = rings[field]
        const before = ring[this.steps - 1]
        const now = value(numbers[place])
        const mean = Number.isNaN(before) || this.within === 1 ? now : before + (now - before) / this.within
        ring.fill(this.gauges.has(field) ? now : mean, this.steps - filled)
      })
    }
  }

  /** The sum of a field over all workers at each moment; NaN where none has a value. */
  total(field) {
    return add([...this.workers.values()].map((rings) => rings[field]), this.steps)
  }

  /** The newest value of a field of one worker; null if there is none. */
  now(serial, field) {
    const found = this.workers.get(serial)?.[field]?.[this.steps - 1]
    return found == null || Number.isNaN(found) ? null : found
  }

  /** Sockets of a worker at each moment: sessions hold their WebSockets, and plain WebSockets have no session. */
  sockets(serial) {
    const one = this.workers.get(serial)
    return one ? one.sessions.map((sessions, at) => Math.max(sessions, one.websockets[at])) : null
  }

  /** Round trips of pings in ms: at each moment those of the upstream with the longest. */
  trips() {
    const [p50, p95] = [new Float64Array(this.steps).fill(NaN), new Float64Array(this.steps).fill(NaN)]
    for (const one of this.upstreams.values()) {
      one.round_trip_p95_ms.forEach((trip, at) => {
        if (Number.isNaN(trip) || trip <= p95[at]) return
        p95[at] = trip
        p50[at] = one.round_trip_p50_ms[at]
      })
    }
    return { p50, p95 }
  }

  /** Number of refusals in the whole range, by fate. */
  refusals() {
    const sum = (field) => Math.round([...this.upstreams.values()]
      .reduce((all, one) => all + one[field].reduce((some, rate) => some + (Number.isNaN(rate) ? 0 : rate * this.step), 0), 0))
    return { own: sum('refusals_own_per_s'), healed: sum('refusals_healed_per_s'), forwarded: sum('refusals_forwarded_per_s') }
  }
}

/** Adds rings up; NaN where none has a value. */
export function add(rings, steps) {
  const sum = new Float64Array(steps).fill(NaN)
  for (const ring of rings) {
    for (let at = 0; at < steps; at += 1) {
      if (!Number.isNaN(ring[at])) sum[at] = (Number.isNaN(sum[at]) ? 0 : sum[at]) + ring[at]
    }
  }
  return sum
}

/** The newest value that is known of the last few; null if there is none. */
export function newest(values) {
  const last = values.subarray(-3).findLast((one) => !Number.isNaN(one))
  return last ?? null
}
