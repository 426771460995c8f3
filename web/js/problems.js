/** What went wrong, in words that help: a title, what it means, what to do, and what can be pressed. */

import { t, tOr } from './i18n.js';

/** @typedef {'call'|'listen'|'dismiss'} ActionId `listen`: a call without a microphone */

/**
 * @typedef {Object} Problem
 * @property {string} kind
 * @property {'error'|'info'} tone
 * @property {string} title
 * @property {string} text
 * @property {string[]} [steps]
 * @property {{id: ActionId, label: string}[]} actions the first is the one proposed
 * @property {number} [retryAfter_s] counted down beside the text
 */

/** @typedef {import('../lib/devices.js').DeviceTrouble} DeviceTrouble */
/** @typedef {import('../lib/endings.js').Ending} Ending */

/** @type {Record<'again'|'retry'|'listen'|'dismiss', () => {id: ActionId, label: string}>} */
const actions = {
  again: () => ({ id: 'call', label: t('action.again') }),
  retry: () => ({ id: 'call', label: t('action.retry') }),
  listen: () => ({ id: 'listen', label: t('action.listen') }),
  dismiss: () => ({ id: 'dismiss', label: t('action.dismiss') }),
};

/** Troubles with words of their own. */
const TROUBLES = ['denied', 'denied_by_system', 'none', 'in_use', 'insecure'];

/** @param {DeviceTrouble} trouble @returns {Problem} */
export function deviceProblem({ device, kind, message }) {
  const isMicrophone = device === 'microphone';
  const known = TROUBLES.includes(kind) ? kind : 'failed';
  const without = t(`trouble.${device}.without`);
  const reason = known === 'failed' ? message || t('trouble.no_reason') : t(`trouble.${device}.${known}.text`);
  /** @type {Problem} */
  const problem = {
    kind: `${device}_${kind}`,
    tone: 'error',
    title: t(`trouble.${device}.${known}`),
    text: `${reason}${t('list.sentence')}${without}`,
    actions: isMicrophone ? [actions.retry(), actions.listen()] : [actions.dismiss()],
  };
  if (kind === 'denied') problem.steps = [t('trouble.denied.page'), t(`trouble.${device}.denied.set`), t(`trouble.${device}.denied.then`)];
  if (kind === 'insecure') {
    problem.steps = [t('trouble.insecure.open', { address: `https://${location.host}${location.pathname}` })];
    if (isMicrophone) problem.actions = [actions.listen()];
  }
  return problem;
}

/** @param {'microphone'|'camera'} device @returns {Problem} */
export function deviceLost(device) {
  return { kind: `${device}_lost`, tone: 'error', title: t(`lost.${device}`), text: t(`lost.${device}.text`), actions: [actions.dismiss()] };
}

/** @returns {Problem} */
export function serverAway() {
  return { kind: 'away', tone: 'error', title: t('away.title'), text: t('away.text'), actions: [actions.retry()] };
}

/**
 * @param {Ending} ending
 * @param {boolean} isServerUp asked after the end, to tell a dead server from a dead network path
 * @returns {Problem|null} null for an end that needs no words
 */
export function endingProblem(ending, isServerUp) {
  const error = /** @type {const} */ ('error');
  const both = [actions.again(), actions.dismiss()];
  switch (ending.kind) {
    case 'hangup':
    case 'left':
    case 'away':
      return null;
    case 'server': {
      const reason = ending.reason || 'by_server';
      const text = tOr(`ended.${reason}`, ending.message || t('trouble.no_reason'));
      return { kind: `ended_${reason}`, tone: 'info', title: t('ended.title'), text, actions: both };
    }
    case 'lost':
      return isServerUp
        ? { kind: 'lost', tone: error, title: t('lost.call'), text: t('lost.call.text'), actions: both }
        : { ...serverAway(), kind: 'lost_away', title: t('lost.away'), actions: [actions.again()] };
    case 'no_path':
      return {
        kind: 'no_path',
        tone: error,
        title: t('no_path.title'),
        text: t('no_path.text'),
        steps: [t('no_path.network'), t('no_path.operator')],
        actions: [actions.retry(), actions.dismiss()],
      };
    case 'refused':
      return refusalProblem(ending);
    default:
      return { kind: 'browser', tone: error, title: t('setup.title'), text: ending.message || t('setup.text'), actions: [actions.retry()] };
  }
}

/** What a server allows each caller or key; 429 with words of their own. */
const LIMITS = ['too_many_calls', 'too_many_calls_of_key', 'rate_limit_exceeded'];

/** @param {Ending} ending @returns {Problem} */
function refusalProblem({ refusal }) {
  const said = refusal?.message ? t('refused.said', { message: refusal.message }) : '';
  const retry = [actions.retry(), actions.dismiss()];
  const status = String(refusal?.status ?? '');
  switch (refusal?.kind) {
    case 'busy':
      if (LIMITS.includes(refusal.code)) {
        const text = t(`limit.${refusal.code}`);
        return { kind: refusal.code, tone: 'info', title: t('limit.title'), text, actions: retry, retryAfter_s: refusal.retryAfter_s };
      }
      return {
        kind: 'busy',
        tone: 'info',
        title: t('busy.title'),
        text: t('busy.text'),
        actions: [actions.again(), actions.dismiss()],
        retryAfter_s: refusal.retryAfter_s,
      };
    case 'away':
      return serverAway();
    case 'rejected':
      return { kind: 'rejected', tone: 'error', title: t('rejected.title'), text: said || t('refused.status', { status }), actions: retry };
    default:
      return { kind: 'fault', tone: 'error', title: t('fault.title'), text: said || t('fault.status', { status }), actions: retry };
  }
}
