// Sums over the newest samples. Pure.

/** Refusals ("I do not know this session") of the last five minutes, by fate. */
export function refusals(store) {
  const sum = { own: 0, healed: 0, forwarded: 0 }
  for (const one of store.upstreams.values()) {
    for (const fate of Object.keys(sum)) sum[fate] += one.refusals?.[fate] ?? 0
  }
  return sum
}

/** Round trips of pings in the newest sample: the upstream with the longest. */
export function roundTrips(store) {
  const all = [...store.upstreams.values()].filter((one) => one.p95 != null)
  return all.reduce((worst, one) => (worst.p95 == null || one.p95 > worst.p95 ? { p50: one.p50, p95: one.p95 } : worst), { p50: null, p95: null })
}
