
// Frames of the hub, and the payloads in them that only preloads read.

/** Splits a stream of bytes into frames: four bytes of length, one of type, the body. */
class FrameReader {
  constructor(each, broken) {
    Object.assign(this, { each, broken, parts: [], size: 0, need: 4, paused: false });
  }

  read(data) {
    this.parts.push(data);
    this.size += data.length;
    if (this.size < this.need || this.paused) return;
    let all = this.parts.length === 1 ? data : Buffer.concat(this.parts, this.size);
    while (all.length >= 4 && !this.paused) {
      const length = all.readUInt32BE(0);
      if (length < 1 || length > LONGEST) return this.broken();
      this.need = 4 + length;
      if (all.length < this.need) break;
      // What follows a pause may be shorter than this frame, and must not wait for more.
      this.need = 4;
      if (quietly(() => this.each(all[4], all.subarray(5, 4 + length))) === 'pause') this.pause();
      all = all.subarray(4 + length);
    }
    this.parts = all.length ? [all] : [];
    this.size = all.length;
  }

  /** The rest is read in the next turn of the event loop, after all promises have settled. */
  pause() {
    this.paused = true;
    setImmediate(() => {
      this.paused = false;
      this.read(Buffer.alloc(0));
    });
  }
}

const json = (value) => Buffer.from(JSON.stringify(value));

function frame(type, ...parts) {
  const head = Buffer.allocUnsafe(5);
  head.writeUInt32BE(1 + parts.reduce((sum, part) => sum + part.length, 0), 0);
  head[4] = type;
  return Buffer.concat([head, ...parts.filter((part) => part.length)]);
}

/** A payload: its header as JSON, then strings and buffers, each with its length and its kind. */
function pack(header, parts = []) {
  const pieces = [];
  for (const part of [JSON.stringify(header), ...parts]) {
    const bytes = typeof part === 'string' ? Buffer.from(part) : bytesOf(part);
    const head = Buffer.allocUnsafe(5);
    head.writeUInt32BE(bytes.length, 0);
    head[4] = typeof part === 'string' ? 0 : 1;
    pieces.push(head, bytes);
  }
  return Buffer.concat(pieces);
}

/** The bytes of a binary part: a Buffer, any other view, or an ArrayBuffer. */
const bytesOf = (part) =>
  (ArrayBuffer.isView(part) ? Buffer.from(part.buffer, part.byteOffset, part.byteLength) : Buffer.from(part));

function unpack(payload) {
  const parts = [];
  for (let at = 0; at + 5 <= payload.length;) {
    const end = at + 5 + payload.readUInt32BE(at);
    const bytes = payload.subarray(at + 5, end);
    parts.push(payload[at + 4] ? Buffer.from(bytes) : bytes.toString());
    at = end;
  }
  return { header: JSON.parse(parts.shift()), parts };
}

