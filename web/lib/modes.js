/** How the two sides take turns, as session settings. */

/** @typedef {'full_duplex'|'half_duplex'|'turn_based'} ModeName as `/api/info` names them */

/** @type {ModeName[]} */
export const MODES = ['full_duplex', 'half_duplex', 'turn_based'];

/** @type {Record<ModeName, {type: string}|null>} */
const TURN_DETECTION = {
  full_duplex: { type: 'semantic_vad' },
  half_duplex: { type: 'server_vad' },
  turn_based: null,
};

/** @param {ModeName} mode @returns {Record<string, any>} the session settings that stand for it */
export function settingsOf(mode) {
  return { audio: { input: { turn_detection: TURN_DETECTION[mode] } } };
}

/** @param {any} session of the server @returns {ModeName|null} null if it does not say */
export function modeOf(session) {
  const detection = session?.audio?.input?.turn_detection;
  if (detection === undefined) return null;
  return MODES.find((mode) => (TURN_DETECTION[mode]?.type ?? null) === (detection?.type ?? null)) ?? null;
}
