// One tile: somebody, or somebody's screen, and the path that their packets take.

import type { Path, TrackStats } from '../../sdk/src/index.js';
import { h } from './dom.js';
import { icon } from './icons.js';

export interface TileOptions {
  peerId: string;
  name: string;
  screen: boolean;
  own: boolean;
}

/** ms that the ring stays after the last loud moment. */
const ringFor = 700;

/** Pixels: a width that changes by less asks for nothing else. */
const step = 80;

export class Tile {
  readonly element: HTMLElement;
  private readonly video: HTMLVideoElement;
  private readonly audio = h('audio', { autoplay: true });
  private readonly badge = h('span', { class: 'tile-muted', hidden: true }, icon('micOff'));
  private readonly info: HTMLButtonElement;
  private readonly details: HTMLDListElement;
  private muted = false;
  private quietAt: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly options: TileOptions, private readonly blocked: () => void) {
    this.video = h('video', { 'autoplay': true, 'playsinline': true, 'hidden': true, 'aria-hidden': 'true', 'data-testid': 'tile-video' });
    // Sound has an element of its own: a tile without a picture must be heard too.
    this.video.muted = true;
    this.details = h('dl', { 'class': 'path', 'data-testid': 'path', 'hidden': true });
    this.info = h('button', {
      'class': 'tile-info', 'type': 'button', 'aria-expanded': 'false', 'data-testid': 'tile-info', 'title': 'The path of these packets (I)',
      'aria-label': `Show the path of ${this.label()}`, 'click': () => this.showPath(!this.showsPath),
    }, icon('info'));
    this.element = h('article', {
      'class': 'tile', 'data-testid': 'tile', 'data-peer': options.peerId, 'data-kind': options.screen ? 'screen' : 'person', 'data-own': options.own,
    },
    options.screen ? null : this.avatar(),
    this.video, this.audio,
    h('footer', { class: 'plate' }, this.badge, h('span', { 'class': 'tile-name', 'data-testid': 'tile-name' }, this.label())),
    this.details, this.info);
    this.element.classList.toggle('screen', options.screen);
    this.element.classList.toggle('mirror', options.own && !options.screen);
    this.describe();
  }

  get hasVideo(): boolean {
    return !this.video.hidden;
  }

  /** How many pixels across the picture is shown with, in steps; 0 without one. */
  get pixels(): number {
    return this.hasVideo ? Math.ceil(this.element.clientWidth * devicePixelRatio / step) * step : 0;
  }

  /** Shows a picture, or the initials for null. */
  setVideo(track: MediaStreamTrack | null): void {
    const current = (this.video.srcObject as MediaStream | null)?.getVideoTracks()[0] ?? null;
    if (track !== current) this.video.srcObject = track ? new MediaStream([track]) : null;
    this.video.hidden = track === null;
    if (track) this.start(this.video);
  }

  /** Plays a sound; never one's own. */
  setAudio(track: MediaStreamTrack | null): void {
    this.audio.srcObject = track ? new MediaStream([track]) : null;
    if (track) this.start(this.audio);
  }

  setMuted(muted: boolean): void {
    this.muted = muted;
    this.badge.hidden = !muted;
    this.element.dataset['muted'] = String(muted);
    this.describe();
  }

  /** Shows the ring for a while. */
  speak(level: number): void {
    if (level < 0.03 || this.muted) return;
    this.element.classList.add('speaking');
    clearTimeout(this.quietAt);
    this.quietAt = setTimeout(() => this.element.classList.remove('speaking'), ringFor);
  }

  showPath(show: boolean): void {
    this.details.hidden = !show;
    this.info.setAttribute('aria-expanded', String(show));
    this.element.classList.toggle('showing-path', show);
  }

  get showsPath(): boolean {
    return !this.details.hidden;
  }

  setStats(path: Path | null, tracks: TrackStats[]): void {
    // Of simulcast the largest picture that is sent.
    const video = tracks.filter((t) => t.kind === 'video').sort((a, b) => (b.width ?? 0) * Math.min(1, b.fps ?? 0) - (a.width ?? 0) * Math.min(1, a.fps ?? 0))[0];
    const audio = tracks.find((t) => t.kind === 'audio');
    const main = video ?? audio;
    const rows: [string, string, string][] = [
      ['relay', 'Relay', path ? `${path.transport.toUpperCase() || '?'} · ${path.server || 'relay'}` : '–'],
      ['address', 'Leaves at', path?.type === 'relay' ? path.address : (path?.type ?? '–')],
      ['codec', 'Codec', [video?.codec, audio?.codec].filter(Boolean).join(' · ') || '–'],
      ['resolution', 'Picture', video?.width ? `${video.width}×${video.height} · ${Math.round(video.fps ?? 0)} fps` : '–'],
      ['rtt', 'Round trip', ms(main?.rtt ?? path?.rtt ?? null)],
      ['loss', 'Loss', percent(main?.loss ?? null)],
      ['bitrate', 'Rate', bitrate(tracks)],
    ];
    this.details.replaceChildren(...rows.map(([id, label, value]) =>
      h('div', {}, h('dt', {}, label), h('dd', { 'data-testid': `path-${id}` }, value))));
  }

  remove(): void {
    clearTimeout(this.quietAt);
    this.video.srcObject = null;
    this.audio.srcObject = null;
    this.element.remove();
  }

  private start(media: HTMLMediaElement): void {
    media.play().catch((e: unknown) => {
      if ((e as DOMException).name === 'NotAllowedError') this.blocked();
    });
  }

  /** Plays what the browser held back; to be called from a click. */
  resume(): void {
    for (const media of [this.video, this.audio]) if (media.srcObject) void media.play().catch(() => {});
  }

  private label(): string {
    const { name, own, screen } = this.options;
    if (screen) return own ? 'Your screen' : `${name}'s screen`;
    return own ? `${name} (you)` : name;
  }

  private describe(): void {
    this.element.setAttribute('aria-label', this.label() + (this.muted ? ', muted' : ''));
  }

  private avatar(): HTMLElement {
    const el = h('div', { 'class': 'avatar', 'aria-hidden': 'true' }, h('span', {}, initials(this.options.name)));
    el.style.setProperty('--hue', String(hue(this.options.name)));
    return el;
  }
}

function initials(name: string): string {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const first = [...(words[0] ?? '?')][0] ?? '?';
  const last = words.length > 1 ? ([...words[words.length - 1]!][0] ?? '') : '';
  return (first + last).toUpperCase();
}

function hue(name: string): number {
  let sum = 7;
  for (const c of name) sum = (sum * 31 + c.codePointAt(0)!) % 360;
  return sum;
}

function ms(v: number | null): string {
  return v === null ? '–' : `${v < 10 ? v.toFixed(1) : Math.round(v)} ms`;
}

function percent(v: number | null): string {
  return v === null ? '–' : `${(v * 100).toFixed(v > 0 && v < 0.1 ? 1 : 0)} %`;
}

function bitrate(tracks: TrackStats[]): string {
  const known = tracks.filter((t) => t.bitrate !== null);
  if (known.length === 0) return '–';
  const sum = known.reduce((a, t) => a + t.bitrate!, 0);
  return sum >= 1e6 ? `${(sum / 1e6).toFixed(1)} Mbit/s` : `${Math.round(sum / 1000)} kbit/s`;
}
