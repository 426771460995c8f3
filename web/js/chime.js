/** A short sound for who looked elsewhere while waiting in line. */

const NOTES_HZ = [523.25, 659.25, 783.99];
const NOTE_S = 0.16;
const LOUDNESS = 0.12;

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
