// What state a worker is in, in one word with a tone, and what an operator may do with it. Pure.

/** Sentence of the API about an address that never had a process. */
const NEVER = 'no process has listened there'

/** Whether no process has ever listened at the address: a spare port of a range, which is not a fault. */
export const isUnused = (worker) => worker.health === 'unused' || (worker.health === 'gone' && worker.why?.health === NEVER)

/** Name for people and for the command line: upstream/worker. */
export const fullName = (worker) => `${worker.upstream}/${worker.worker}`

const HEALTH = {
  gone: { word: 'gone', tone: 'bad', icon: 'cross' },
  hung: { word: 'hangs', tone: 'bad', icon: 'hourglass' },
  leaving: { word: 'leaving', tone: 'warn', icon: 'arrow' },
  starting: { word: 'starting', tone: 'warn', icon: 'dots' },
}

/** The most important state of a worker: `{ word, tone, icon, why, order }`; the lowest order needs attention first. */
export function stateOf(worker) {
  if (isUnused(worker)) return { word: 'unused', tone: 'mute', icon: 'ring', why: worker.why.health, order: 9 }
  const ill = HEALTH[worker.health]
  if (worker.admin === 'maint') return { word: 'maintenance', tone: 'info', icon: 'wrench', why: worker.why.admin, order: 5 }
  if (ill) return { ...ill, why: worker.why.health, order: ill.tone === 'bad' ? 0 : 2 }
  if (worker.ejected) return { word: 'ejected', tone: 'warn', icon: 'warn', why: worker.why.ejection, order: 1 }
  if (worker.admin === 'drain') return { word: 'draining', tone: 'info', icon: 'drain', why: worker.why.admin, order: 4 }
  if (worker.shares_address) {
    return { word: 'shared address', tone: 'warn', icon: 'warn', why: 'several processes seem to share its address', order: 3 }
  }
  if (worker.health === 'up') return { word: 'up', tone: 'good', icon: 'check', why: worker.why.health, order: 8 }
  return { word: worker.health, tone: 'mute', icon: 'ring', why: worker.why.health, order: 7 }
}

/** Workers in the order in which they need attention, then as in the file. */
export function byAttention(workers) {
  return workers.map((worker, at) => [stateOf(worker).order, at, worker]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((one) => one[2])
}

/** Share of a drain that is done, 0 to 1: by sessions, or by time where it began without any. */
export function drained(drain) {
  if (drain.sessions_at_start > 0) return Math.min(1, Math.max(0, 1 - drain.sessions_left / drain.sessions_at_start))
  const left = drain.tunnels_left + drain.sessions_left
  if (left === 0) return 1
  return drain.grace_s ? Math.min(1, drain.since_s / drain.grace_s) : 0
}
