// The bodies of Engine.IO polling: packets in, packets out, in the four encodings that exist
// (docs/reference/protocols.md §1.1).
'use strict';

/** A response body as packets (strings; Buffers for binary ones). */
function decode(body, { version, jsonp, contentType = '' }) {
  if (jsonp) {
    const inner = /^___eio\[\d+\]\((".*")\);?$/s.exec(body.toString());
    if (!inner) throw new Error(`no JSONP: ${body.toString().slice(0, 80)}`);
    return decodeText(JSON.parse(inner[1]), version);
  }
  // Engine.IO 3 without b64=1 frames even text as binary, and says so in the type.
  if (version === 3 && /octet-stream/.test(contentType)) return decodeBinary(body);
  return decodeText(body.toString(), version);
}

function decodeText(text, version) {
  if (version === 4) return text.split('\x1e').map((p) => (p[0] === 'b' ? Buffer.from(p.slice(1), 'base64') : p));
  const packets = [];
  while (text) {
    const colon = text.indexOf(':');
    const length = Number(text.slice(0, colon)); // in UTF-16 units, which is what slice counts
    if (colon < 1 || !(length >= 0)) throw new Error(`no EIO3 payload: ${text.slice(0, 80)}`);
    packets.push(text.slice(colon + 1, colon + 1 + length));
    text = text.slice(colon + 1 + length);
  }
  return packets;
}

/** `0|1` (text|binary), the length's digits as bytes, 0xff, the packet. */
function decodeBinary(body) {
  const packets = [];
  for (let at = 0; at < body.length; ) {
    const end = body.indexOf(0xff, at);
    if (end < 0) throw new Error('no EIO3 binary payload');
    const length = Number([...body.subarray(at + 1, end)].join(''));
    const packet = body.subarray(end + 1, end + 1 + length);
    packets.push(body[at] === 0 ? packet.toString() : packet);
    at = end + 1 + length;
  }
  return packets;
}

/** Text packets as a POST's body and type. */
function encode(packets, { version, jsonp }) {
  const text = version === 4 ? packets.join('\x1e') : packets.map((p) => `${p.length}:${p}`).join('');
  if (!jsonp) return { body: text, type: 'text/plain;charset=UTF-8' };
  // What the client's form posts: one field, its backslash-n doubled so that the form does not eat it.
  return { body: 'd=' + encodeURIComponent(text.replace(/\\n/g, '\\\\n')), type: 'application/x-www-form-urlencoded' };
}

module.exports = { decode, encode };
