/**
 * What a phone needs: the screen stays on during a call, a touch is felt, a wait that is over is heard, and the page
 * opens without a server.
 */

const NOTES_HZ = [523.25, 659.25, 783.99];
const NOTE_S = 0.16;
const LOUDNESS = 0.12;

/** @type {any} */
let lock = null;
let isWanted = false;

async function acquire() {
  try {
    lock = await /** @type {any} */ (navigator).wakeLock?.request('screen');
    if (!isWanted) lock?.release();
  } catch {
    // Low battery or no such interface: the call works all the same.
  }
}

export function keepScreenOn() {
  isWanted = true;
  acquire();
}

export function letScreenSleep() {
  isWanted = false;
  lock?.release?.().catch(() => {});
  lock = null;
}

document.addEventListener('visibilitychange', () => {
  // The system takes the lock away whenever the page is hidden.
  if (isWanted && !document.hidden) acquire();
});

/** A short touch, where the device can. */
export function nudge() {
  navigator.vibrate?.(15);
}

/** The pages themselves, so that they open at once and also while the server is away; never what it answers. */
export function keepShell() {
  navigator.serviceWorker?.register('/sw.js').catch(() => {
    // Not over plain HTTP, nor where storage is forbidden.
  });
}

/** @param {AudioContext|null} context */
export function chime(context) {
  if (context?.state !== 'running') return;
  NOTES_HZ.forEach((frequency, index) => {
    const begin_s = context.currentTime + index * NOTE_S;
    const tone = new OscillatorNode(context, { frequency });
    const gain = new GainNode(context, { gain: 0 });
    gain.gain.setValueAtTime(0, begin_s);
    gain.gain.linearRampToValueAtTime(LOUDNESS, begin_s + 0.02);
    gain.gain.exponentialRampToValueAtTime(0.001, begin_s + 3 * NOTE_S);
    tone.connect(gain).connect(context.destination);
    tone.start(begin_s);
    tone.stop(begin_s + 3 * NOTE_S);
  });
}
