// What a picture is encoded as: the encodings of simulcast (RFC 8853), small before large. Pure.

/** Bits a second that a camera's picture of so many pixels is good with, at 20 to 30 frames a second: LiveKit's presets. */
const bitrates: readonly (readonly [pixels: number, bps: number])[] = [
  [0, 40_000], [320 * 180, 160_000], [640 * 360, 450_000], [960 * 540, 800_000], [1280 * 720, 1_700_000], [1920 * 1080, 3_000_000],
  [2560 * 1440, 5_000_000], [3840 * 2160, 8_000_000],
];
/** Frames a second of a camera's smaller encodings; the largest has what the camera gives. */
const smallRate = 20;
/** Of a camera's encodings: one size, in three rates (webrtc-svc). Firefox, which does not know it, sends one rate. */
const scalabilityMode = 'L1T3';
/** Of a screen's smaller encoding, whose text nobody reads: it says what is shown while the path takes no more. */
const screenRate = 5;
const screenBitrate = 200_000;

/** Size of a picture in pixels. */
export interface Size {
  width: number;
  height: number;
}

/** One encoding of several. */
export interface Encoding {
  rid: string;
  scaleResolutionDownBy: number;
  maxBitrate?: number;
  maxFramerate?: number;
  /** How many frames depend on others: a viewer with too little room for an encoding is sent every second or fourth of them. */
  scalabilityMode?: string;
  /** false: the picture is too small for it. */
  active: boolean;
}

/** The names of up to three encodings, counted from the largest. */
const rids = ['q', 'h', 'f'];
/** Pixels from which Chromium encodes three, and two: of a smaller picture it leaves the largest encodings out, whatever it is told (simulcast.cc). */
const three = 960 * 540;
const two = 480 * 270;

/**
 * How many encodings a picture is worth: three from 960x540 on, two from 480x270. A screen has two at most: its full size, which is what it is
 * shared for, and one for those whose path cannot take that and would have nothing at all otherwise; a third in between costs the encoder a
 * quarter of the first and is read no better.
 */
export function layersFor(size: Size, screen: boolean): number {
  const pixels = size.width * size.height;
  const most = pixels < two ? 1 : pixels < three ? 2 : 3;
  return screen ? Math.min(most, 2) : most;
}

/**
 * So many encodings of a picture, each half as wide and as high as the next; none for one, which needs no name. A picture that is too small for so
 * many, from another camera than the section was made for, has its full size in an earlier one, and those after it are off.
 */
export function encodingsOf(count: number, size: Size, screen: boolean): Encoding[] {
  if (count < 2) return [];
  const most = Math.min(count, layersFor(size, screen));
  return rids.slice(-count).map((rid, n) => {
    const scaleResolutionDownBy = 2 ** Math.max(0, most - 1 - n);
    const e = { rid, active: n < most, scaleResolutionDownBy };
    const whole = scaleResolutionDownBy === 1;
    if (screen) return whole ? e : { ...e, maxBitrate: screenBitrate, maxFramerate: screenRate };
    const maxBitrate = bitrateOf((size.width * size.height) / scaleResolutionDownBy ** 2);
    return { ...e, maxBitrate, scalabilityMode, ...(!whole && { maxFramerate: smallRate }) };
  });
}

/** Between two presets in a straight line; beyond the last as there. */
function bitrateOf(pixels: number): number {
  const above = bitrates.findIndex(([p]) => p >= pixels);
  if (above < 0) return bitrates.at(-1)![1];
  const [hi, to] = bitrates[above]!;
  const [lo, from] = bitrates[Math.max(0, above - 1)]!;
  const share = hi > lo ? (pixels - lo) / (hi - lo) : 0;
  return Math.round((from + share * (to - from)) / 1000) * 1000;
}
