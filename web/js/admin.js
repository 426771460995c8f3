/** The admin page: polls /api/stats each second and shows processes, calls, queue and engines. */

import { Refusal } from '../lib/server.js';
import { byId, clockText, make, setText, valueText } from './dom.js';
import { bindLanguageButton, dateText, t, tOr, tongue } from './i18n.js';
import { KeyForm, server, takeKeyFromAddress } from './access.js';
import { LiveTable } from './livetable.js';
import { KeptRecordings } from './keptrecordings.js';
import { KeptVoices } from './keptvoices.js';
import { Rates, list, unknownFields } from './rates.js';
import { stepOf } from './engine.js';

const EVERY_MS = 1000;
/** A server that is down need not be asked each second. */
const AFTER_FAILURE_MS = 3000;

/** Endings that are faults of the server; see `server/endings.py`. */
const FAILURES = ['engine_gone', 'worker_gone', 'engine_failed', 'media_failed', 'internal_error'];

const rates = new Rates();
const voices = new KeptVoices();
const recordings = new KeptRecordings();
let timer = 0;

/** @param {unknown} value */
const words = (value) => (value === undefined || value === null || value === '' ? '–' : String(value));
/** @param {unknown} value @param {string} unit @param {number} [digits] */
const measure = (value, unit, digits) => valueText(/** @type {number} */ (value), unit, digits);
/** @param {unknown} value */
const duration = (value) => (Number.isFinite(value) ? clockText(Number(value)) : '–');
/** @param {unknown} bytes */
const megabytes = (bytes) => measure(Number.isFinite(bytes) ? Number(bytes) / 1e6 : null, 'MB');

/** @param {number|null} value @param {number} warn @param {number} bad */
function toneAbove(value, warn, bad) {
  if (value === null || value < warn) return '';
  return value < bad ? 'warn' : 'bad';
}

/** @param {any} object @param {string[]} known */
function extras(object, known) {
  return unknownFields(object, known).map(([name, value]) => `${name} ${value}`).join(', ');
}

/** @param {unknown} state */
function stateText(state) {
  return tOr(`state.${state}`, words(state));
}

/** @param {unknown} state */
function toneOfState(state) {
  if (state === undefined) return '';
  if (state === 'ready' || state === 'active') return 'good';
  return state === 'failed' || state === 'dead' ? 'bad' : 'warn';
}

// ---- tables -------------------------------------------------------------------------------------------------

const KNOWN_PROCESS = ['role', 'name', 'pid', 'state', 'restarts', 'uptime_s', 'cpu_s', 'rss_bytes', 'loop_lag_ms', 'doing', 'percent', 'step_s', 'since_s'];
const processes = new LiveTable(byId('processes'), [
  { title: 'column.name', text: (one) => words(one.name) },
  { title: 'column.role', text: (one) => words(one.role) },
  { title: 'column.state', text: (one) => stateText(one.state), tone: (one) => toneOfState(one.state) },
  { title: 'column.doing', text: (one) => (one.doing ? stepOf(one) : ''), isOptional: true },
  { title: 'column.pid', text: (one) => words(one.pid), isNumber: true },
  { title: 'column.up', text: (one) => duration(one.uptime_s), isNumber: true },
  { title: 'column.restarts', text: (one) => words(one.restarts), tone: (one) => toneAbove(one.restarts ?? 0, 1, 3), isNumber: true },
  { title: 'column.cpu', text: (one) => measure(one.cpu_pct, '%'), spark: (one) => one.cpu_pct, sparkLeast: 20, isNumber: true },
  { title: 'column.memory', text: (one) => megabytes(one.rss_bytes), isNumber: true },
  { title: 'column.loop_lag', text: (one) => measure(one.loop_lag_ms, 'ms', 1), tone: (one) => toneAbove(one.loop_lag_ms ?? null, 10, 50), isNumber: true },
  { title: 'column.more', text: (one) => extras(one, [...KNOWN_PROCESS, 'cpu_pct']), isOptional: true },
], (one) => `${one.role}/${one.name}`, 'none.processes');

const KNOWN_CALL = ['call_id', 'state', 'since_s', 'remote', 'worker', 'engine', 'mode', 'turns', 'stats', 'latency_ms', 'now'];
const calls = new LiveTable(byId('calls'), [
  { title: 'column.call', text: (one) => words(one.call_id) },
  { title: 'column.state', text: (one) => stateText(one.state), tone: (one) => toneOfState(one.state) },
  { title: 'column.since', text: (one) => duration(one.since_s), isNumber: true },
  { title: 'column.remote', text: (one) => words(one.remote) },
  { title: 'column.mode', text: (one) => tOr(`mode.${one.mode}`, words(one.mode)) },
  { title: 'column.runs_on', text: (one) => [one.worker, one.engine].filter(Boolean).join(', ') || '–' },
  { title: 'column.turns', text: (one) => words(one.turns), isNumber: true },
  { title: 'column.mos', text: (one) => mosText(one.stats), isNumber: true },
  { title: 'column.round_trip', text: (one) => measure(one.now.rtt_ms, 'ms'), tone: (one) => toneAbove(one.now.rtt_ms, 150, 300), isNumber: true },
  { title: 'column.loss_in', text: (one) => measure(one.now.in_loss_pct, '%', 1), spark: (one) => one.now.in_loss_pct, sparkLeast: 5,
    tone: (one) => toneAbove(one.now.in_loss_pct, 2, 8), isNumber: true },
  { title: 'column.jitter_in', text: (one) => measure(one.now.in_jitter_ms, 'ms', 1), isNumber: true },
  { title: 'column.buffer_in', text: (one) => measure(one.now.in_buffer_ms, 'ms'), isNumber: true },
  { title: 'column.concealed', text: (one) => measure(one.now.concealed_pct, '%', 1), isNumber: true },
  { title: 'column.loss_out', text: (one) => measure(one.now.out_loss_pct, '%', 1), tone: (one) => toneAbove(one.now.out_loss_pct, 2, 8), isNumber: true },
  { title: 'column.playout', text: (one) => (one.now.playout_ms === null ? '' : measure(one.now.playout_ms, 'ms')), isOptional: true, isNumber: true },
  { title: 'column.underruns', text: (one) => (one.now.underruns === null ? '' : words(one.now.underruns)), isOptional: true, isNumber: true },
  { title: 'column.video', text: (one) => measure(one.now.video_fps, 'fps', 1), isNumber: true },
  { title: 'column.latency', text: (one) => latencies(one.latency_ms).join('; '), isOptional: true },
  { title: 'column.more', text: (one) => extras(one, KNOWN_CALL), isOptional: true },
  { title: 'column.end', build: (one) => hangupButton(String(one.call_id)) },
], (one) => String(one.call_id), 'none.calls');

const queue = new LiveTable(byId('queue'), [
  { title: 'column.place', text: (one) => words(one.position) },
  { title: 'column.call', text: (one) => words(one.call_id) },
  { title: 'column.expected_wait', text: (one) => duration(one.eta_s), isNumber: true },
  { title: 'column.more', text: (one) => extras(one, ['position', 'call_id', 'eta_s']), isOptional: true },
], (one) => String(one.call_id), 'none.queue');

const past = new LiveTable(byId('past'), [
  { title: 'column.call', text: (one) => words(one.call_id) },
  { title: 'column.began', text: (one) => dateText(1000 * one.began_at) },
  { title: 'column.length', text: (one) => duration(one.seconds), isNumber: true },
  { title: 'column.ending', text: (one) => tOr(`ended.${one.reason}`, words(one.reason)), tone: (one) => (FAILURES.includes(one.reason) ? 'bad' : '') },
  { title: 'column.remote', text: (one) => words(one.remote) },
  { title: 'column.mode', text: (one) => tOr(`mode.${one.mode}`, words(one.mode)) },
  { title: 'column.runs_on', text: (one) => [one.worker, one.engine].filter(Boolean).join(', ') },
  { title: 'column.turns', text: (one) => words(one.turns), isNumber: true },
  { title: 'column.latency', text: (one) => latencies(one.latency_ms).join('; '), isOptional: true },
], (one) => String(one.call_id), 'none.past');

const engines = new LiveTable(byId('engines'), [
  { title: 'column.name', text: (one) => words(one.name) },
  { title: 'column.kind', text: (one) => words(one.kind) },
  { title: 'column.slots', text: (one) => t('admin.of', { part: words(one.slots_used), whole: words(one.slots) }), isNumber: true,
    tone: (one) => (one.slots && one.slots_used >= one.slots ? 'warn' : '') },
  { title: 'column.capacity', text: (one) => words(one.capacity), isNumber: true,
    tone: (one) => (one.capacity < one.slots ? 'warn' : '') },
  { title: 'column.lately', text: (one) => t('admin.lately', { time: measure(one.unit_p99_ms, 'ms'), share: measure(100 * one.late_share, '%', 1) }), isNumber: true,
    tone: (one) => (one.late_share > 0 ? 'warn' : '') },
  { title: 'column.units', text: (one) => words(one.units?.count), isNumber: true },
  { title: 'column.unit_time', text: (one) => percentiles(one.units), isNumber: true },
  { title: 'column.latencies', text: (one) => latencies(one.latency_ms).join('\n') || '–' },
  { title: 'column.more', text: (one) => extras(one, ['name', 'kind', 'slots', 'slots_used', 'capacity', 'unit_p99_ms', 'late_share', 'units', 'latency_ms']), isOptional: true },
], (one) => String(one.name), 'none.engines');

const presets = new LiveTable(byId('presets'), [
  { title: 'column.file', text: (one) => words(one.file) },
  { title: 'column.why', text: (one) => words(one.reason), tone: () => 'warn' },
], (one) => `${one.file}/${one.reason}`, 'none.presets');

/** @param {any[]|undefined} stats what is heard of the caller, and by the caller @returns {string} */
function mosText(stats) {
  const row = stats?.find((one) => one.type === 'call-quality');
  return [row?.mosIn, row?.mosOut].map((mos) => (Number.isFinite(mos) ? mos.toFixed(1) : '–')).join(' / ');
}

/** @param {any} units with `p50_ms` and the like */
function percentiles(units) {
  const known = Object.entries(units ?? {}).filter(([name]) => /^p\d+_ms$/.test(name));
  return known.map(([name, value]) => `${name.replace('_ms', '')} ${measure(value, 'ms', 1)}`).join(', ') || '–';
}

/** @param {any} stages each a time or percentiles, in ms @returns {string[]} */
function latencies(stages) {
  return Object.entries(stages ?? {}).map(([stage, values]) => {
    const name = stage.replaceAll('_', ' ');
    if (!values || typeof values !== 'object') return `${name} ${measure(values, 'ms')}`;
    // A count may stand beside the percentiles.
    const parts = Object.entries(values).map(([key, value]) => `${key} ${measure(value, key.startsWith('p') ? 'ms' : '')}`.trim());
    return `${name}: ${parts.join(', ')}`;
  });
}

/** @param {string} callId */
function hangupButton(callId) {
  const button = make('button', { type: 'button', class: 'quiet small', text: t('bar.hangup'), 'aria-label': t('admin.hangup', { call: callId }) });
  button.addEventListener('click', () => {
    button.disabled = true;
    server.hangUp(callId);
  });
  return button;
}

// ---- showing ------------------------------------------------------------------------------------------------

/** @type {any} */ let shown = null;

/** @param {any} stats */
function show(stats) {
  if (stats !== shown) rates.next(stats);
  shown = stats;
  const shownProcesses = list(stats.processes).map((one) => ({ ...one, cpu_pct: rates.cpuPct(one) }));
  const shownCalls = list(stats.calls).map((one) => ({ ...one, now: rates.call(one) }));
  processes.update(shownProcesses);
  calls.update(shownCalls);
  queue.update(list(stats.queue?.entries));
  past.update(list(stats.past_calls));
  engines.update(list(stats.engines));
  const leftOut = list(stats.presets?.left_out);
  presets.update(leftOut);
  byId('presets-section').hidden = leftOut.length === 0;
  showSummary(stats, shownProcesses, shownCalls);
  const other = unknownFields(stats, ['time', 'uptime_s', 'version', 'queue', 'presets']);
  byId('other-section').hidden = other.length === 0;
  byId('other').replaceChildren(...other.map(([name, value]) => make('div', {}, make('dt', { text: name }), make('dd', { text: value }))));
}

/** @type {Map<string, HTMLElement>} */
const tiles = new Map();

/** @param {any} stats @param {any[]} shownProcesses @param {any[]} shownCalls */
function showSummary(stats, shownProcesses, shownCalls) {
  const all = list(stats.engines);
  const sum = (/** @type {any[]} */ items, /** @type {string} */ field) => items.reduce((total, one) => total + (Number(one[field]) || 0), 0);
  const worst = Math.max(...shownCalls.map((one) => one.now.in_loss_pct ?? -1));
  const tile = (/** @type {string} */ title, /** @type {string} */ value) => {
    if (!tiles.has(title)) {
      const cell = make('dd');
      tiles.set(title, cell);
      byId('summary').append(make('div', {}, make('dt', { 'data-i18n': title, text: t(title) }), cell));
    }
    setText(/** @type {HTMLElement} */ (tiles.get(title)), value);
  };
  tile('tile.calls', String(shownCalls.length));
  tile('tile.waiting', t('admin.of', { part: stats.queue?.length ?? 0, whole: stats.queue?.max ?? '–' }));
  tile('tile.slots_used', t('admin.of', { part: sum(all, 'slots_used'), whole: sum(all, 'slots') }));
  tile('tile.worst_loss_in', worst < 0 ? '–' : measure(worst, '%', 1));
  tile('tile.cpu_all', shownProcesses.some((one) => one.cpu_pct !== null) ? measure(sum(shownProcesses, 'cpu_pct'), '%') : '–');
  tile('tile.memory_all', megabytes(sum(shownProcesses, 'rss_bytes')));
  tile('tile.up', duration(stats.uptime_s));
  tile('tile.version', words(stats.version));
}

/** @param {'on'|'off'|'wait'|'key'} live */
function showLive(live) {
  const node = byId('live');
  node.dataset.live = document.body.dataset.live = live;
  node.dataset.i18n = `live.${live}`;
  setText(node, t(`live.${live}`));
}

async function poll() {
  clearTimeout(timer);
  let wait_ms = EVERY_MS;
  try {
    const stats = await server.stats();
    show(stats);
    showLive('on');
    voices.refresh();
    recordings.refresh();
    byId('error').hidden = true;
  } catch (error) {
    wait_ms = AFTER_FAILURE_MS;
    showFailure(error);
    if (error instanceof Refusal && error.kind === 'key') return;
  }
  timer = window.setTimeout(poll, wait_ms);
}

/** @param {unknown} error */
function showFailure(error) {
  if (!(error instanceof Refusal)) throw error;
  if (error.kind === 'key') {
    keyForm.ask('admin.key');
    showLive('key');
    return;
  }
  showLive('off');
  byId('error').hidden = false;
  const what = error.kind === 'away' ? t('engine.away') : t('refused.status', { status: error.status });
  setText(byId('error'), [what, error.message, t('admin.last')].filter(Boolean).join(t('list.sentence')));
}

const keyForm = new KeyForm(poll);
bindLanguageButton(byId('language'));
tongue.addEventListener('change', () => shown && show(shown));
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && !keyForm.isOpen) poll();
});
takeKeyFromAddress();
poll();
