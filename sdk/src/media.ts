// What this client sends: captured devices and the publications made of them.

import { OramaError } from './errors.js';
import { limits } from './protocol.js';
import { encodingsOf, type Encoding, layersFor, type Size } from './simulcast.js';

/** Devices that can be named instead of handing in a track. */
export type Device = 'camera' | 'microphone' | 'screen';

export interface PublishOptions {
  /** Shown to the others; at most 128 bytes. */
  name?: string;
  /** "microphone", "camera", "screen" or a word of your own; at most 64 bytes. */
  source?: string;
  /** For a device: what to capture; for 'screen' its video constraints. */
  constraints?: MediaTrackConstraints;
  /** Published but silent at first. */
  muted?: boolean;
  /**
   * Video: whether several sizes are sent, of which everybody gets what suits them; true unless said otherwise. How many depends on the
   * picture when it is published: three from 960x540 on, two from 480x270, else one; of a screen two at most. Sizes that
   * nobody watches are not encoded. false: one size, for a machine that is short of CPU, or a room of two.
   */
  simulcast?: boolean;
  /**
   * Video: the codec to send if this browser can encode it; else the one it would send anyway, which is VP8 unless the browser says otherwise. It is
   * the same for all viewers, and one who cannot decode it is not sent the track: VP8 and H.264 are decoded everywhere, AV1 and VP9 need fewer bits for more CPU.
   */
  codec?: VideoCodec;
}

/** A codec that the SFU forwards with all that it knows of its layers. */
export type VideoCodec = 'vp8' | 'vp9' | 'h264' | 'av1';

/** What a picture is taken for whose size nobody tells. */
const usual: Size = { width: 1280, height: 720 };

const byDefault: Record<Device, MediaTrackConstraints> = {
  camera: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30, max: 30 } },
  microphone: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  screen: { frameRate: { ideal: 15, max: 30 } },
};

/** Opens a device. */
export async function capture(device: Device, constraints?: MediaTrackConstraints): Promise<MediaStreamTrack> {
  const wanted = { ...byDefault[device], ...constraints };
  try {
    const stream = device === 'screen'
      ? await navigator.mediaDevices.getDisplayMedia({ video: wanted })
      : await navigator.mediaDevices.getUserMedia(device === 'camera' ? { video: wanted } : { audio: wanted });
    return stream.getTracks()[0]!;
  } catch (cause) {
    throw refused(device, cause);
  }
}

function refused(device: Device, cause: unknown): OramaError {
  switch ((cause as DOMException | undefined)?.name) {
    case 'NotAllowedError':
      return new OramaError('device_refused', `the ${device} was not allowed`, false, { cause });
    case 'NotFoundError':
    case 'OverconstrainedError':
      return new OramaError('device_missing', `there is no such ${device}`, false, { cause });
    case 'NotReadableError':
      return new OramaError('device_busy', `the ${device} is in use elsewhere`, true, { cause });
    default:
      return new OramaError('device_failed', `the ${device} could not be opened`, true, { cause });
  }
}

/** What a publication asks of its room. */
export interface Publisher {
  changed(p: Publication): void;
  replaced(p: Publication): Promise<void>;
  stopped(p: Publication): void;
}

/** One track that this client sends. It lives through reconnects; its id may change with them. */
export class Publication {
  readonly kind: 'audio' | 'video';
  readonly source: string;
  readonly name: string;
  /** The track's id in the room, once the SFU has told it. */
  id: string | null = null;
  muted: boolean;
  private ended = false;
  private readonly onEnded = () => this.stop();

  /** device: the SDK opened the track itself and so closes it as well. */
  constructor(
    private track: MediaStreamTrack,
    private readonly publisher: Publisher,
    private readonly device: Device | null,
    private readonly options: PublishOptions,
  ) {
    this.kind = track.kind as 'audio' | 'video';
    this.source = options.source ?? device ?? (this.kind === 'audio' ? 'microphone' : 'camera');
    this.name = options.name ?? '';
    this.muted = options.muted ?? false;
    check('source', this.source, limits.source);
    check('name', this.name, limits.name);
    if (device === 'screen') track.contentHint = 'detail';
    track.enabled = !this.muted;
    track.addEventListener('ended', this.onEnded);
  }

  /** The track as it is sent. */
  get media(): MediaStreamTrack {
    return this.track;
  }

  get stopped(): boolean {
    return this.ended;
  }

  /** The encodings to send it as, as many as count or as suit it; empty for one, without simulcast. */
  encodings(count?: number): Encoding[] {
    if (this.kind !== 'video' || this.options.simulcast === false) return [];
    const { width = usual.width, height = usual.height } = this.track.getSettings();
    const screen = this.source === 'screen' || ['detail', 'text'].includes(this.track.contentHint);
    return encodingsOf(count ?? layersFor({ width, height }, screen), { width, height }, screen);
  }

  /** The codec that is preferred, if there is one for this kind. */
  get codec(): VideoCodec | undefined {
    return this.kind === 'video' ? this.options.codec : undefined;
  }

  /** Sends silence or black, and tells the others. A camera that the SDK opened is released. */
  async mute(): Promise<void> {
    if (this.muted || this.ended) return;
    this.muted = true;
    this.track.enabled = false;
    this.publisher.changed(this);
    if (this.device === 'camera') {
      this.release();
      await this.publisher.replaced(this);
    }
  }

  /** Sends again. A camera that was released is opened again, which may fail. */
  async unmute(): Promise<void> {
    if (!this.muted || this.ended) return;
    if (this.device === 'camera' && this.track.readyState === 'ended') {
      await this.replace(await capture('camera', this.options.constraints));
    }
    this.track.enabled = true;
    this.muted = false;
    this.publisher.changed(this);
  }

  /** Sends another track of the same kind in this one's place, without negotiation. */
  async replace(track: MediaStreamTrack): Promise<void> {
    if (track.kind !== this.kind) throw new OramaError('invalid', `a ${track.kind} track cannot replace ${this.kind}`);
    this.track.removeEventListener('ended', this.onEnded);
    if (this.device) this.track.stop();
    this.track = track;
    track.enabled = !this.muted;
    track.addEventListener('ended', this.onEnded);
    await this.publisher.replaced(this);
  }

  /** Ends the publication. */
  stop(): void {
    if (this.ended) return;
    this.ended = true;
    if (this.device) this.release();
    else this.track.removeEventListener('ended', this.onEnded);
    this.publisher.stopped(this);
  }

  private release(): void {
    this.track.removeEventListener('ended', this.onEnded);
    this.track.stop();
  }
}

function check(what: string, value: string, max: number): void {
  if (new TextEncoder().encode(value).length > max) {
    throw new OramaError('invalid', `${what} is longer than ${max} bytes`);
  }
}
