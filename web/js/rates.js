/** Figures from two successive answers of /api/stats; its counters only grow. Any field may be missing. */

/**
 * @typedef {Object} CallFigures null where unknown
 * @property {number|null} in_loss_pct
 * @property {number|null} in_jitter_ms
 * @property {number|null} in_buffer_ms
 * @property {number|null} concealed_pct
 * @property {number|null} out_loss_pct
 * @property {number|null} rtt_ms
 * @property {number|null} playout_ms synthesized sound that waits to be sent
 * @property {number|null} video_fps
 */

export class Rates {
  /** @type {any} */ #before = null;
  /** @type {any} */ #now = null;

  /** @param {any} stats */
  next(stats) {
    this.#before = this.#now;
    this.#now = stats;
  }

  /** @param {any} process @returns {number|null} percent of one core */
  cpuPct(process) {
    const before = list(this.#before?.processes).find((one) => one.name === process.name && one.pid === process.pid);
    const time_s = this.#now?.time - this.#before?.time;
    const cpu_s = process.cpu_s - before?.cpu_s;
    return time_s > 0 && cpu_s >= 0 ? (100 * cpu_s) / time_s : null;
  }

  /** @param {any} call @returns {CallFigures} */
  call(call) {
    const earlier = list(this.#before?.calls).find((one) => one.call_id === call.call_id);
    const inbound = find(call, 'inbound-rtp', 'audio');
    const before = find(earlier, 'inbound-rtp', 'audio');
    const video = find(call, 'inbound-rtp', 'video');
    const remote = find(call, 'remote-inbound-rtp', 'audio');
    const delta = (/** @type {string} */ field) => number(inbound?.[field] - before?.[field]);
    const lost = delta('packetsLost');
    const received = delta('packetsReceived');
    return {
      in_loss_pct: lost === null || received === null ? null : percent(Math.max(0, lost), Math.max(0, lost) + received),
      in_jitter_ms: times(inbound?.jitter, 1000),
      in_buffer_ms: times(ratio(delta('jitterBufferDelay'), delta('jitterBufferEmittedCount')), 1000),
      concealed_pct: percent(delta('concealedSamples'), delta('totalSamplesReceived')),
      out_loss_pct: times(remote?.fractionLost, 100),
      rtt_ms: times(find(call, 'candidate-pair')?.currentRoundTripTime ?? remote?.roundTripTime, 1000),
      playout_ms: number(find(call, 'media-playout')?.buffered_ms),
      video_fps: number(video?.framesPerSecond) ?? this.#pictureRate(video, find(earlier, 'inbound-rtp', 'video')),
    };
  }

  /** @param {any} video @param {any} before */
  #pictureRate(video, before) {
    const time_s = this.#now?.time - this.#before?.time;
    return number((video?.framesDecoded - before?.framesDecoded) / time_s);
  }
}

/** @param {any} value an array, or an object as W3C reports are: id -> members @returns {any[]} */
export function list(value) {
  const items = Array.isArray(value) ? value : Object.values(value ?? {});
  return items.filter((one) => one && typeof one === 'object');
}

/**
 * What an object holds beside the fields a page knows, as `name value` words.
 * @param {any} object
 * @param {string[]} known
 * @returns {[string, string][]}
 */
export function unknownScalars(object, known) {
  return Object.entries(object ?? {})
    .filter(([name, value]) => !known.includes(name) && ['string', 'number', 'boolean'].includes(typeof value))
    .map(([name, value]) => [name.replaceAll('_', ' '), Number.isFinite(value) ? String(Math.round(value * 100) / 100) : String(value)]);
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
