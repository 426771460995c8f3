/** Figures from successive answers of /api/stats; its counters only grow. Any field may be missing. */

/** Rates are taken over this many answers, because processes report at moments of their own. */
const WINDOW = 5;

/**
 * @typedef {Object} CallFigures null where unknown
 * @property {number|null} in_loss_pct
 * @property {number|null} in_jitter_ms
 * @property {number|null} in_buffer_ms
 * @property {number|null} concealed_pct
 * @property {number|null} out_loss_pct
 * @property {number|null} rtt_ms
 * @property {number|null} playout_ms synthesized sound that waits to be sent
 * @property {number|null} underruns times the answer ran dry
 * @property {number|null} video_fps
 */

export class Rates {
  /** @type {any[]} */ #answers = [];

  /** @param {any} stats */
  next(stats) {
    this.#answers.push(stats);
    if (this.#answers.length > WINDOW) this.#answers.shift();
  }

  get #now() {
    return this.#answers[this.#answers.length - 1];
  }

  /**
   * The oldest answer in the window that knew something, so that new calls and restarted processes have rates soon.
   * @param {(stats: any) => any} pick
   * @returns {{found: any, time_s: number}}
   */
  #earlier(pick) {
    for (const stats of this.#answers) {
      const found = pick(stats);
      if (found) return { found, time_s: this.#now.time - stats.time };
    }
    return { found: undefined, time_s: 0 };
  }

  /** @param {any} process @returns {number|null} percent of one core */
  cpuPct(process) {
    const { found, time_s } = this.#earlier((stats) =>
      list(stats.processes).find((one) => one.name === process.name && one.pid === process.pid && one.cpu_s >= 0));
    const cpu_s = process.cpu_s - found?.cpu_s;
    return time_s > 0 && cpu_s >= 0 ? (100 * cpu_s) / time_s : null;
  }

  /** @param {any} call @returns {CallFigures} */
  call(call) {
    const { found: earlier, time_s } = this.#earlier((stats) => list(stats.calls).find((one) => one.call_id === call.call_id));
    const inbound = find(call, 'inbound-rtp', 'audio');
    const before = find(earlier, 'inbound-rtp', 'audio');
    const video = find(call, 'inbound-rtp', 'video');
    const remote = { ...find(call, 'outbound-rtp', 'audio'), ...find(call, 'remote-inbound-rtp', 'audio') };
    const playout = find(call, 'media-playout');
    const delta = (/** @type {string} */ field) => number(inbound?.[field] - before?.[field]);
    const lost = delta('packetsLost');
    const received = delta('packetsReceived');
    return {
      in_loss_pct: lost === null || received === null ? null : percent(Math.max(0, lost), Math.max(0, lost) + received),
      in_jitter_ms: times(inbound?.jitter, 1000),
      in_buffer_ms: times(ratio(delta('jitterBufferDelay'), delta('jitterBufferEmittedCount')), 1000),
      concealed_pct: percent(delta('concealedSamples'), delta('totalSamplesReceived')),
      out_loss_pct: times(remote.fractionLost, 100),
      rtt_ms: times(find(call, 'candidate-pair')?.currentRoundTripTime ?? remote.roundTripTime, 1000),
      playout_ms: number(playout?.buffered_ms),
      underruns: number(playout?.underruns),
      video_fps: number(video?.framesPerSecond) ?? number((video?.framesDecoded - find(earlier, 'inbound-rtp', 'video')?.framesDecoded) / time_s),
    };
  }
}

/** @param {any} value an array, or an object as W3C reports are: id -> members @returns {any[]} */
export function list(value) {
  const items = Array.isArray(value) ? value : Object.values(value ?? {});
  return items.filter((one) => one && typeof one === 'object');
}

/**
 * What an object holds beside the fields a page knows: plain values, and one level of named groups of them.
 * @param {any} object
 * @param {string[]} known
 * @returns {[string, string][]}
 */
export function unknownFields(object, known) {
  const rest = Object.entries(object ?? {}).filter(([name]) => !known.includes(name));
  const named = rest.map(([name, value]) => [name.replaceAll('_', ' '), fieldText(value)]);
  return /** @type {[string, string][]} */ (named.filter(([, text]) => text));
}

/** @param {unknown} value @returns {string} '' for what has no short text */
function fieldText(value) {
  if (typeof value === 'number') return String(Math.round(value * 100) / 100);
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'string') return value;
  if (!value || typeof value !== 'object' || Array.isArray(value)) return '';
  const scalars = Object.entries(value).filter(([, inner]) => typeof inner !== 'object');
  return scalars.map(([name, inner]) => `${name.replaceAll('_', ' ')} ${fieldText(inner)}`).join(', ');
}

/** @param {any} call @param {string} type @param {string} [kind] */
function find(call, type, kind) {
  return list(call?.stats).find((one) => one.type === type && (!kind || one.kind === kind));
}

/** @param {number|null} part @param {number|null} whole */
function percent(part, whole) {
  return times(ratio(part, whole), 100);
}

/** @param {number|null} part @param {number|null} whole */
function ratio(part, whole) {
  return part === null || !whole || whole < 0 ? null : Math.max(0, part) / whole;
}

/** @param {unknown} value @param {number} factor */
function times(value, factor) {
  const known = number(value);
  return known === null ? null : known * factor;
}

/** @param {unknown} value @returns {number|null} */
function number(value) {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}
