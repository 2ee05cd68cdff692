// Ends of the certificates, out of the metrics: no other path of the API has them.
import * as api from './api.js'
import { set } from './store.js'

const SERIES = /^stickyd_tls_certificate_expiry_timestamp_seconds\{(.*)\} (\S+)$/gm

/** Reads the certificates in the text of `/metrics`: `[{ name, ends }]`, ends in ms. */
export function read(text) {
  return [...text.matchAll(SERIES)].map(([, labels, seconds]) => {
    const named = Object.fromEntries([...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]))
    return { name: named.name ?? '?', ends: Number(seconds) * 1000 }
  })
}

/** Looks the certificates up. */
export async function lookAtCertificates() {
  try {
    set({ certificates: read(await api.metrics()) })
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error
  }
}
