/** Keeps a phone's screen on during a call: a sleeping page loses its microphone. */

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
