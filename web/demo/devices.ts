// Own camera and microphone: opened once, shown before the call, then sent.

import { capture, OramaError } from '../../sdk/src/index.js';
import { kept } from './dom.js';

export type Input = 'camera' | 'microphone';

const kindOf = { camera: 'videoinput', microphone: 'audioinput' } as const;

/** The devices in use. A field is null while that device is off, refused or missing. */
export class Devices {
  readonly tracks: Record<Input, MediaStreamTrack | null> = { camera: null, microphone: null };
  readonly errors: Record<Input, OramaError | null> = { camera: null, microphone: null };
  readonly chosen: Record<Input, string> = { camera: kept.get('camera'), microphone: kept.get('microphone') };

  constructor(private readonly video: { width: number; height: number } | null) {}

  /** Opens a device and keeps it; null and an entry in errors when that fails. */
  async open(input: Input): Promise<MediaStreamTrack | null> {
    this.close(input);
    const id = this.chosen[input];
    try {
      this.tracks[input] = await this.capture(input, id);
      this.errors[input] = null;
    } catch (e) {
      this.errors[input] = e as OramaError;
    }
    return this.tracks[input];
  }

  close(input: Input): void {
    this.tracks[input]?.stop();
    this.tracks[input] = null;
  }

  choose(input: Input, id: string): void {
    this.chosen[input] = id;
    kept.set(input, id);
  }

  async list(input: Input): Promise<MediaDeviceInfo[]> {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return all.filter((d) => d.kind === kindOf[input] && d.deviceId !== '');
  }

  // A device chosen on an earlier visit may be gone: then any will do.
  private async capture(input: Input, id: string): Promise<MediaStreamTrack> {
    if (!navigator.mediaDevices) {
      throw new OramaError('insecure', 'Cameras and microphones need https or localhost.');
    }
    const size = input === 'camera' ? this.size() : {};
    if (!id) return capture(input, size);
    try {
      return await capture(input, { ...size, deviceId: { exact: id } });
    } catch (e) {
      if ((e as OramaError).code !== 'device_missing') throw e;
      this.choose(input, '');
      return capture(input, size);
    }
  }

  private size(): MediaTrackConstraints {
    // Two cores encode 720p and decode a grid of it only with difficulty.
    const weak = (navigator.hardwareConcurrency || 4) <= 2;
    const { width, height } = this.video ?? (weak ? { width: 640, height: 360 } : { width: 1280, height: 720 });
    return { width: { ideal: width }, height: { ideal: height } };
  }
}

/** Calls show about 30 times a second with the loudness of a track, 0 to 1, until the result is called. */
export function meter(track: MediaStreamTrack, show: (level: number) => void): () => void {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  analyser.fftSize = 512;
  context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    let sum = 0;
    for (const v of samples) sum += v * v;
    const db = 10 * Math.log10(sum / samples.length + 1e-9);
    show(Math.min(1, Math.max(0, (db + 60) / 50)));
  }, 33);
  return () => {
    clearInterval(timer);
    void context.close();
  };
}
