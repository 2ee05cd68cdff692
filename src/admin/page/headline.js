// The first sentence of the overview: what is wrong, since when, and what to do. Pure: the moment is an argument.
import { count, list, plural, span } from './words.js'
import { fullName, isUnused, stateOf } from './workerstate.js'

const RANK = { bad: 0, warn: 1, info: 2, good: 3 }

/** Share of a limit from which on it is a problem. */
const NEARLY_FULL = 0.9

/** Days before a certificate's end from which on it is a problem. */
const CERTIFICATE_DAYS = 14

/** Returns everything that is wrong, the worst first: `{ level, what, since, todo, detail, command, route }`. */
export function problems({ status, workers = [], names = [], events = [], certificates = [], refused = 0, now }) {
  const found = [
    ...stopping(status),
    ...upstreams(workers, events),
    ...ill(workers, events),
    ...ejected(workers, now),
    ...shared(workers),
    ...unresolved(names),
    ...limits(status),
    ...configuration(status),
    ...expiring(certificates, now),
    ...lost(refused),
    ...ordered(workers, now),
  ]
  return found.sort((a, b) => RANK[a.level] - RANK[b.level])
}

/** Returns one sentence for a problem: what, for how long, and what to do. */
export function sentenceOf(problem, now) {
  const length = problem.since == null ? '' : ` for ${span((now - problem.since) / 1000)}`
  const todo = problem.todo ? `: ${problem.todo}` : ''
  return `${problem.what}${length}${todo}.`
}

/** Returns the headline: `{ level, title, detail, command, route, since, others }`. */
export function headline(input) {
  const [first, ...others] = problems(input)
  const { workers = [], live = null, now } = input
  if (first && first.level !== 'info') return { ...first, title: sentenceOf(first, now), others }
  const used = workers.filter((worker) => !isUnused(worker))
  const up = used.filter((worker) => worker.takes_new).length
  const rest = { since: null, command: null, route: null }
  if (!used.length) {
    const title = 'No worker has listened yet: start your application on the ports of the configuration.'
    return { ...rest, level: 'info', title, detail: 'stickyd finds the workers by itself as soon as they listen.', others }
  }
  const all = up === used.length
  const title = all
    ? used.length === 1 ? 'The worker is up.' : `All ${count(used.length)} workers are up.`
    : `${count(up)} of ${plural(used.length, 'worker')} take new sessions; the rest was told to stop.`
  const detail = live == null ? '' : `${live} Nothing needs your attention.`
  return { ...rest, level: 'good', title, detail, others: first ? [first, ...others] : others }
}

function stopping(status) {
  if (!status?.stopping) return []
  const detail = 'Requests may finish within 2 s, and WebSockets get a Close frame with code 1001 within 5 s.'
  return [{ level: 'bad', what: 'stickyd is stopping', since: null, todo: 'wait for its successor', detail }]
}

function groups(workers) {
  const named = new Map()
  for (const worker of workers) named.set(worker.upstream, [...(named.get(worker.upstream) ?? []), worker])
  return [...named]
}

/** Upstreams without a worker for new sessions: the worst that can happen. */
function upstreams(workers, events) {
  const empty = groups(workers).filter(([, all]) => all.some((one) => !isUnused(one)) && !all.some((one) => one.takes_new))
  return empty.map(([name, all]) => {
    const used = all.filter((worker) => !isUnused(worker))
    const stopped = used.filter((worker) => worker.admin !== 'ready')
    const told = stopped.length === used.length
    const since = lastOf(events, (event) => event.kind === 'upstream_empty' && event.upstream === name)
      ?? Math.max(...used.map((worker) => downSince(events, worker) ?? -Infinity))
    const states = list(used.map((worker) => `${worker.worker} (${stateOf(worker).word})`), 4)
    return {
      level: 'bad',
      what: `${name} has had no worker for new sessions`,
      since: Number.isFinite(since) ? since : null,
      todo: told ? 'take one back into service' : 'start one of its workers',
      detail: `New clients get 503 until one is back. Workers: ${states}.`,
      command: told ? `stickyd ready ${fullName(stopped[0])}` : null,
      route: ['workers'],
    }
  })
}

/** The last moment that an event of this kind tells of, in ms. */
function lastOf(events, fits) {
  return events.findLast(fits)?.at ?? null
}

const downSince = (events, worker) =>
  lastOf(events, (event) =>
    event.kind === 'worker_down' && event.upstream === worker.upstream && event.worker === worker.worker)

const ILL = {
  hung: (names, one, workers, others) => ({
    level: 'bad',
    what: `${names} ${one ? 'has' : 'have'} not answered`,
    todo: others ? `restart ${one ? 'it' : 'them'}, or move ${one ? 'its' : 'their'} clients away` : 'restart it',
    detail: `${one ? 'The process accepts' : 'The processes accept'} connections and ${one ? 'does' : 'do'} not answer; `
      + `${plural(sessions(workers), 'session')} wait there. New clients go to ${plural(others, 'other worker')}. `
      + (others ? `This ends ${one ? 'its' : 'their'} sessions at once, so that the clients connect to another worker:` : ''),
    command: others ? `stickyd maint ${fullName(workers[0])}` : null,
  }),
  gone: (names, one, workers, others) => ({
    level: 'bad',
    what: `${names} ${one ? 'has' : 'have'} been gone`,
    todo: `start ${one ? 'it' : 'them'} again`,
    detail: `Connects are refused. Clients of ${one ? 'it' : 'them'} connect again and reach ${plural(others, 'other worker')}. `
      + 'stickyd takes a worker back by itself once it listens. This shows what listens there:',
    command: listens(workers[0].address),
  }),
  leaving: (names, one) => ({
    level: 'warn',
    what: `${names} ${one ? 'has' : 'have'} been shutting down`,
    todo: 'wait, or start a successor',
    detail: 'New connects are refused, and open connections go on.',
    command: null,
  }),
  starting: (names, one, workers) => ({
    level: 'warn',
    what: `${names} ${one ? 'is' : 'are'} not ready yet`,
    todo: 'its health check must pass first',
    detail: `The last word of the check: ${workers[0].why.health}.`,
    command: null,
  }),
}

const sessions = (workers) => workers.reduce((sum, one) => sum + Math.max(one.sessions, one.tunnels), 0)

/** A command that shows the process at an address of this machine. */
function listens(address) {
  if (address.startsWith('unix:')) return `ss -lxp src ${address.slice(5)}`
  return `ss -ltnp 'sport = :${address.slice(address.lastIndexOf(':') + 1)}'`
}

/** Ill workers, those of one upstream in one state together. */
function ill(workers, events) {
  return groups(workers).flatMap(([name, all]) =>
    Object.entries(ILL).flatMap(([state, tell]) => {
      const those = all.filter((one) => one.health === state && !isUnused(one) && one.admin !== 'maint')
      if (!those.length) return []
      const names = those.length > 2 ? `${those.length} workers of ${name}` : list(those.map(fullName))
      const others = all.filter((one) => one.takes_new).length
      const told = tell(names, those.length === 1, those, others)
      const since = Math.min(...those.map((one) => downSince(events, one) ?? Infinity))
      const route = those.length === 1 ? ['workers', those[0].upstream, those[0].worker] : ['workers']
      const fits = state === 'starting' ? null : since
      return [{ ...told, since: Number.isFinite(fits) && fits != null ? fits : null, route }]
    }))
}

function ejected(workers, now) {
  const those = workers.filter((worker) => worker.ejected && worker.health === 'up' && worker.admin === 'ready')
  return those.map((worker) => ({
    level: 'warn',
    what: `${fullName(worker)} has been ejected`,
    since: worker.last_ejection ? now - worker.last_ejection.ago_s * 1000 : null,
    todo: 'look at its log',
    detail: `${worker.why.ejection[0].toUpperCase()}${worker.why.ejection.slice(1)}. It gets no new sessions meanwhile.`,
    command: null,
    route: ['workers', worker.upstream, worker.worker],
  }))
}

function shared(workers) {
  const those = workers.filter((worker) => worker.shares_address)
  if (!those.length) return []
  return [{
    level: 'warn',
    what: `Several processes share the address of ${list(those.map(fullName))}`,
    since: null,
    todo: 'give each process a port of its own',
    detail: 'Sessions then reach a process that does not know them, by chance.',
    command: null,
    route: ['workers'],
  }]
}

function unresolved(names) {
  return names.filter((one) => one.error).map((one) => ({
    level: 'warn',
    what: `The name ${one.name} of ${one.upstream} cannot be resolved`,
    since: null,
    todo: 'look at the DNS server',
    detail: `${one.error}. The addresses of before stay in use.`,
    command: null,
    route: ['workers'],
  }))
}

/** Uses of the limits: `[{ name, held, limit }]`. */
export function fullness(status) {
  if (!status) return []
  const all = [
    { name: 'Sockets', ...status.sockets },
    { name: 'Pinned sessions', ...status.pins },
    { name: 'File descriptors', ...status.descriptors },
    { name: 'Bytes kept for retries', ...status.replay_bytes, bytes: true },
  ]
  return all.filter((one) => one.limit > 0 && one.held != null)
}

function limits(status) {
  return fullness(status).filter((one) => one.held / one.limit >= NEARLY_FULL).map((one) => ({
    level: one.held >= one.limit ? 'bad' : 'warn',
    what: `${one.name}: ${count(one.held)} of ${count(one.limit)} in use`,
    since: null,
    todo: 'raise the limit, or close sockets',
    detail: 'At the limit, new ones are refused.',
    command: null,
    route: ['config'],
  }))
}

function configuration(status) {
  const config = status?.config
  if (!config) return []
  const found = []
  if (config.error) {
    found.push({
      level: 'warn',
      what: 'The edited configuration is not in use, because it has errors',
      since: null,
      todo: 'correct the file',
      detail: 'The configuration of before stays in use. This shows every error with its place:',
      command: config.file ? `stickyd check ${config.file}` : null,
      route: ['config'],
    })
  }
  if (config.needs_restart.length) {
    found.push({
      level: 'info',
      what: `${list(config.needs_restart)} changed in the file and need a restart`,
      since: null,
      todo: 'restart stickyd when it suits',
      detail: '',
      command: null,
      route: ['config'],
    })
  }
  return found
}

function expiring(certificates, now) {
  const near = certificates.filter((one) => one.ends - now < CERTIFICATE_DAYS * 86_400_000)
  return near.map((one) => ({
    level: one.ends < now ? 'bad' : 'warn',
    what: one.ends < now
      ? `The certificate of ${one.name} has expired`
      : `The certificate of ${one.name} ends in ${span((one.ends - now) / 1000)}`,
    since: one.ends < now ? one.ends : null,
    todo: 'renew it',
    detail: 'stickyd loads a renewed file by itself.',
    command: null,
    route: ['config'],
  }))
}

function lost(refused) {
  if (!refused) return []
  return [{
    level: 'warn',
    what: `${plural(refused, 'request')} got “Session ID unknown” within 5 minutes`,
    since: null,
    todo: 'look at the events for a worker that died or was restarted',
    detail: 'Each of these clients makes a new session.',
    command: null,
    route: ['events'],
  }]
}

/** Orders of operators that are in effect. */
function ordered(workers, now) {
  const told = (state) => workers.filter((worker) => worker.admin === state && !isUnused(worker))
  const line = (those, what) => those.map((worker) => ({
    level: 'info',
    what: `${fullName(worker)} ${what}`,
    since: worker.drain ? now - worker.drain.since_s * 1000 : null,
    todo: worker.drain?.sessions_left ? `${plural(worker.drain.sessions_left, 'session')} left` : 'it may be stopped now',
    detail: '',
    command: `stickyd ready ${fullName(worker)}`,
    route: ['workers', worker.upstream, worker.worker],
  }))
  return [...line(told('drain'), 'has been draining'), ...line(told('maint'), 'has been in maintenance')]
}
