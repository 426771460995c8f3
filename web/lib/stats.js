/** Figures of a running call, from successive getStats() reports. No document here. */

/** Rates are taken over this many samples, so that one late packet does not make the figures jump. */
const WINDOW = 5;
const EVERY_MS = 1000;

/**
 * @typedef {Object} Figures all null while unknown
 * @property {number|null} mos as listeners would judge what is heard, 1 to 4.4
 * @property {number|null} rtt_ms
 * @property {number|null} in_loss_pct
 * @property {number|null} in_jitter_ms
 * @property {number|null} in_buffer_ms what the jitter buffer adds
 * @property {number|null} concealed_pct of the sound played, invented because packets were missing
 * @property {number|null} in_kbps
 * @property {number|null} out_loss_pct as the server reports it
 * @property {number|null} out_kbps
 * @property {number|null} video_fps
 * @property {number|null} video_width
 * @property {number|null} video_height
 * @property {number|null} video_kbps
 */

export class Stats {
  /** @type {Map<string, any>[]} */ #reports = [];

  /** @param {RTCStatsReport} report @returns {Figures} */
  add(report) {
    this.#reports.push(digest(report));
    if (this.#reports.length > WINDOW) this.#reports.shift();
    return figures(this.#reports[0], this.#reports[this.#reports.length - 1]);
  }
}

/** @param {RTCStatsReport} report @returns {Map<string, any>} its objects by what they describe */
function digest(report) {
  const found = new Map();
  report.forEach((stat) => {
    if (stat.kind) found.set(`${stat.type}/${stat.kind}`, stat);
    else if (stat.type === 'candidate-pair' && stat.nominated && stat.state === 'succeeded') found.set('pair', stat);
  });
  return found;
}

/** @param {Map<string, any>} first @param {Map<string, any>} last @returns {Figures} */
function figures(first, last) {
  const inbound = span(first, last, 'inbound-rtp/audio');
  const outbound = span(first, last, 'outbound-rtp/audio');
  const video = span(first, last, 'outbound-rtp/video');
  const remote = last.get('remote-inbound-rtp/audio');
  const lost = inbound.delta('packetsLost');
  const emitted = inbound.delta('jitterBufferEmittedCount');
  const isVideoSent = (video.delta('framesSent') ?? 0) > 0;
  const now = {
    rtt_ms: scale(last.get('pair')?.currentRoundTripTime ?? remote?.roundTripTime, 1000),
    in_loss_pct: percent(lost, (lost ?? 0) + (inbound.delta('packetsReceived') ?? 0)),
    in_jitter_ms: scale(inbound.last?.jitter, 1000),
    in_buffer_ms: emitted ? scale((inbound.delta('jitterBufferDelay') ?? NaN) / emitted, 1000) : null,
    concealed_pct: percent(inbound.delta('concealedSamples'), inbound.delta('totalSamplesReceived')),
    in_kbps: inbound.rate('bytesReceived', 8 / 1000),
    out_loss_pct: scale(remote?.fractionLost, 100),
    out_kbps: outbound.rate('bytesSent', 8 / 1000),
    video_fps: isVideoSent ? video.rate('framesSent', 1) : null,
    video_width: isVideoSent ? scale(video.last?.frameWidth, 1) : null,
    video_height: isVideoSent ? scale(video.last?.frameHeight, 1) : null,
    video_kbps: isVideoSent ? video.rate('bytesSent', 8 / 1000) : null,
  };
  return { ...now, mos: mosOf(now) };
}

/**
 * The E-model (ITU-T G.107), shortened; the server counts the same way (`call_quality.py`).
 * @param {{rtt_ms: number|null, in_buffer_ms: number|null, concealed_pct: number|null}} now
 * @returns {number|null}
 */
export function mosOf({ rtt_ms, in_buffer_ms, concealed_pct }) {
  if (rtt_ms === null) return null;
  const delay_ms = rtt_ms / 2 + (in_buffer_ms ?? 0);
  const delayCost = 0.024 * delay_ms + 0.11 * Math.max(0, delay_ms - 177.3);
  const lost = concealed_pct ?? 0;
  const r = Math.max(0, 93.2 - delayCost - (95 * lost) / (lost + 20));
  return Math.max(1, 1 + 0.035 * r + 7e-6 * r * (r - 60) * (100 - r));
}

/** @param {Map<string, any>} first @param {Map<string, any>} last @param {string} name */
function span(first, last, name) {
  const [from, to] = [first.get(name), last.get(name)];
  const delta = (/** @type {string} */ field) => {
    if (!from || !to || from === to || from.id !== to.id) return null;
    const value = to[field] - from[field];
    return Number.isFinite(value) ? Math.max(0, value) : null;
  };
  const rate = (/** @type {string} */ field, /** @type {number} */ factor) => {
    const [change, time_ms] = [delta(field), delta('timestamp')];
    return change === null || !time_ms ? null : (change * factor * 1000) / time_ms;
  };
  return { last: to, delta, rate };
}

/** @param {number|null} part @param {number|null} whole */
function percent(part, whole) {
  return part === null || !whole ? null : (100 * part) / whole;
}

/** @param {unknown} value @param {number} factor */
function scale(value, factor) {
  return Number.isFinite(value) ? Number(value) * factor : null;
}

/**
 * One word for the figures. Limits: ITU-T G.114 wants under 150 ms one way; concealment becomes audible near 2 %.
 * @param {Figures} now
 * @returns {'good'|'fair'|'poor'|'unknown'}
 */
export function qualityOf(now) {
  if (now.rtt_ms === null) return 'unknown';
  const loss = Math.max(now.in_loss_pct ?? 0, now.out_loss_pct ?? 0);
  const delay_ms = now.rtt_ms / 2 + (now.in_buffer_ms ?? 0);
  if (loss > 8 || delay_ms > 400 || (now.concealed_pct ?? 0) > 10) return 'poor';
  if (loss > 2 || delay_ms > 200 || (now.concealed_pct ?? 0) > 4) return 'fair';
  return 'good';
}

/**
 * Each second, until the function that it returns is called.
 * @param {() => Promise<RTCStatsReport|null>} take
 * @param {(figures: Figures) => void} tell
 */
export function measure(take, tell) {
  const stats = new Stats();
  const timer = setInterval(async () => {
    const report = await take().catch(() => null);
    if (report) tell(stats.add(report));
  }, EVERY_MS);
  return () => clearInterval(timer);
}
