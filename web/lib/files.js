/** A file of the user as a part of a message: pictures, recordings and videos in the forms that the server takes. */

const MB = 1024 * 1024;
const MAX_VIDEO_MB = 28;
const MAX_PICTURE_MB = 5;
/** Longer sides are scaled down: the model looks at no more. */
const MAX_PICTURE_SIDE = 2240;
const JPEG_QUALITY = 0.9;
const PICTURE_TYPES = ['image/jpeg', 'image/png', 'image/webp'];
const VIDEO_TYPES = ['video/mp4', 'video/webm', 'video/quicktime', 'video/x-matroska'];
const AUDIO_HZ = 24000;
const MAX_AUDIO_S = 60;
const MAX_AUDIO_FILE_MB = 50;

/**
 * A file that cannot be attached; the message is for people.
 *
 * @typedef {'kind'|'video_size'|'video_kind'|'picture'|'sound_size'|'sound'|'sound_length'|'file'} AttachmentCode
 */
export class AttachmentTrouble extends Error {
  /** @param {AttachmentCode} code @param {string} message @param {number} [limit] that was passed */
  constructor(code, message, limit = 0) {
    super(message);
    this.name = 'AttachmentTrouble';
    this.code = code;
    this.limit = limit;
  }
}

/**
 * @param {File} file
 * @returns {Promise<Record<string, string>>} raises `AttachmentTrouble`
 */
export async function partOf(file) {
  const kind = file.type.split('/')[0];
  if (kind === 'image') return { type: 'input_image', image_url: await pictureUrl(file) };
  if (kind === 'audio') return { type: 'input_audio', audio: await recording(file) };
  if (kind === 'video') return { type: 'input_video', video_url: await videoUrl(file) };
  throw new AttachmentTrouble('kind', 'Only pictures, sound and video can be attached.');
}

/** @param {File} file */
async function videoUrl(file) {
  if (file.size > MAX_VIDEO_MB * MB) throw new AttachmentTrouble('video_size', `This video is larger than ${MAX_VIDEO_MB} MB.`, MAX_VIDEO_MB);
  const type = file.type === 'video/matroska' ? 'video/x-matroska' : file.type;
  if (!VIDEO_TYPES.includes(type)) throw new AttachmentTrouble('video_kind', 'This kind of video is not taken; try MP4 or WebM.');
  return dataUrl(new Blob([file], { type }));
}

/** @param {File} file */
async function pictureUrl(file) {
  if (PICTURE_TYPES.includes(file.type) && file.size <= MAX_PICTURE_MB * MB) return dataUrl(file);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new AttachmentTrouble('picture', 'The browser cannot read this picture.');
  }
  const scale = Math.min(1, MAX_PICTURE_SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext('2d')?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return dataUrl(await canvas.convertToBlob({ type: 'image/jpeg', quality: JPEG_QUALITY }));
}

/** @param {File} file @returns {Promise<string>} base64 of PCM16, 24 kHz, mono */
async function recording(file) {
  if (file.size > MAX_AUDIO_FILE_MB * MB) throw new AttachmentTrouble('sound_size', `This recording is larger than ${MAX_AUDIO_FILE_MB} MB.`, MAX_AUDIO_FILE_MB);
  // Decoding brings it to the context's rate, rendering to one channel.
  const decoder = new OfflineAudioContext(1, 1, AUDIO_HZ);
  let sound;
  try {
    sound = await decoder.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new AttachmentTrouble('sound', 'The browser cannot read this recording.');
  }
  if (sound.duration > MAX_AUDIO_S) throw new AttachmentTrouble('sound_length', `This recording is longer than ${MAX_AUDIO_S} s.`, MAX_AUDIO_S);
  const mixer = new OfflineAudioContext(1, Math.max(1, sound.length), AUDIO_HZ);
  const source = mixer.createBufferSource();
  source.buffer = sound;
  source.connect(mixer.destination);
  source.start();
  const samples = (await mixer.startRendering()).getChannelData(0);
  const pcm = Int16Array.from(samples, (value) => Math.max(-1, Math.min(1, value)) * 32767);
  const url = await dataUrl(new Blob([pcm]));
  return url.slice(url.indexOf(',') + 1);
}

/** @param {Blob} blob @returns {Promise<string>} */
function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener('load', () => resolve(String(reader.result)));
    reader.addEventListener('error', () => reject(new AttachmentTrouble('file', 'The file cannot be read.')));
    reader.readAsDataURL(blob);
  });
}
