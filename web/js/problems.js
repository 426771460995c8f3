/** What went wrong, in words that help: a title, what it means, what to do, and what can be pressed. */

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

/** @type {Record<string, {id: ActionId, label: string}>} */
const ACTIONS = {
  again: { id: 'call', label: 'Call again' },
  retry: { id: 'call', label: 'Try again' },
  listen: { id: 'listen', label: 'Call without microphone' },
  dismiss: { id: 'dismiss', label: 'Close' },
};

/** @param {DeviceTrouble} trouble @returns {Problem} */
export function deviceProblem(trouble) {
  const isMicrophone = trouble.device === 'microphone';
  const noun = trouble.device;
  const actions = isMicrophone ? [ACTIONS.retry, ACTIONS.listen] : [ACTIONS.dismiss];
  const without = isMicrophone ? ' You can still call, write, and hear the answers.' : ' The call works without it.';
  const base = { kind: `${noun}_${trouble.kind}`, tone: /** @type {const} */ ('error'), actions };
  switch (trouble.kind) {
    case 'denied':
      return {
        ...base,
        title: `The ${noun} is blocked for this page`,
        text: `The browser was told not to let this page use the ${noun}.${without}`,
        steps: [
          'Press the symbol to the left of the page address (on an iPhone: the page menu, then Website Settings).',
          `Set ${isMicrophone ? 'Microphone' : 'Camera'} to Allow.`,
          isMicrophone ? 'Press Try again.' : 'Switch the camera on again.',
        ],
      };
    case 'denied_by_system':
      return {
        ...base,
        title: `The system keeps the ${noun} from the browser`,
        text: `Allow this browser to use the ${noun} in the privacy settings of your computer or phone.${without}`,
      };
    case 'none':
      return {
        ...base,
        title: `No ${noun} was found`,
        text: `Connect one and try again.${without}`,
      };
    case 'in_use':
      return {
        ...base,
        title: `The ${noun} could not be started`,
        text: `Another program may be using it. Close that program and try again.${without}`,
      };
    case 'insecure':
      return {
        ...base,
        title: `The ${noun} needs a secure page`,
        text: `Browsers give ${noun} access only to pages opened with https:// or from localhost.${without}`,
        steps: [`Open https://${location.host}${location.pathname} instead, if the server offers it.`],
        actions: isMicrophone ? [ACTIONS.listen] : [ACTIONS.dismiss],
      };
    default:
      return { ...base, title: `The ${noun} did not start`, text: `${trouble.message || 'No reason was given.'}${without}` };
  }
}

/** @param {'microphone'|'camera'} device @returns {Problem} */
export function deviceLost(device) {
  return {
    kind: `${device}_lost`,
    tone: 'error',
    title: `The ${device} was disconnected`,
    text: device === 'microphone'
      ? 'You are still in the call but cannot be heard. Choose another microphone below.'
      : 'The call goes on without pictures. Choose another camera to go on.',
    actions: [ACTIONS.dismiss],
  };
}

/** @returns {Problem} */
export function serverAway() {
  return {
    kind: 'away',
    tone: 'error',
    title: 'The server cannot be reached',
    text: 'It may be restarting, or this device is offline. This page keeps looking for it.',
    actions: [ACTIONS.retry],
  };
}

/**
 * @param {Ending} ending
 * @param {boolean} isServerUp asked after the end, to tell a dead server from a dead network path
 * @returns {Problem|null} null for an end that needs no words
 */
export function endingProblem(ending, isServerUp) {
  const error = /** @type {const} */ ('error');
  switch (ending.kind) {
    case 'hangup':
    case 'left':
      return null;
    case 'server':
      return {
        kind: `ended_${ending.reason || 'by_server'}`,
        tone: 'info',
        title: 'The server ended the call',
        text: ending.message || 'It gave no reason.',
        actions: [ACTIONS.again, ACTIONS.dismiss],
      };
    case 'lost':
      return isServerUp
        ? {
            kind: 'lost',
            tone: error,
            title: 'The call was lost',
            text: 'Nothing more came from the server, though it still answers. A change of network can do this.',
            actions: [ACTIONS.again, ACTIONS.dismiss],
          }
        : { ...serverAway(), kind: 'lost_away', title: 'The call was lost: the server cannot be reached', actions: [ACTIONS.again] };
    case 'no_path':
      return {
        kind: 'no_path',
        tone: error,
        title: 'No sound can get through',
        text: 'The server answered, but no media connection opened. A firewall or VPN may be blocking UDP.',
        steps: ['Try another network, or switch the VPN off.', 'Ask whoever runs the server to set its public address or a TURN server.'],
        actions: [ACTIONS.retry, ACTIONS.dismiss],
      };
    case 'refused':
      return refusalProblem(ending);
    default:
      return {
        kind: 'browser',
        tone: error,
        title: 'The call could not be set up',
        text: ending.message || 'The browser gave no reason.',
        actions: [ACTIONS.retry],
      };
  }
}

/** @param {Ending} ending @returns {Problem} */
function refusalProblem({ refusal }) {
  const said = refusal?.message ? ` The server said: ${refusal.message}` : '';
  switch (refusal?.kind) {
    case 'busy':
      return {
        kind: 'busy',
        tone: 'info',
        title: 'All lines are busy',
        text: `Every place is taken at the moment.${said}`,
        actions: [ACTIONS.again, ACTIONS.dismiss],
        retryAfter_s: refusal.retryAfter_s,
      };
    case 'away':
      return serverAway();
    case 'rejected':
      return {
        kind: 'rejected',
        tone: 'error',
        title: 'The server did not accept this call',
        text: said.trim() || `It answered with status ${refusal.status}.`,
        actions: [ACTIONS.retry, ACTIONS.dismiss],
      };
    default:
      return {
        kind: 'fault',
        tone: 'error',
        title: 'The server had an internal error',
        text: said.trim() || `It answered with status ${refusal?.status}. Its log says more.`,
        actions: [ACTIONS.retry, ACTIONS.dismiss],
      };
  }
}
