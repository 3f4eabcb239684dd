// Before the call: a name, a look at oneself, the devices, and the way in.

import type { Devices, Input } from './devices.js';
import { meter } from './devices.js';
import { h, kept } from './dom.js';
import { icon } from './icons.js';
import type { Link } from './invite.js';
import { themeButton } from './theme.js';

/** ms that joining waits for a camera or microphone that is just being opened. */
const deviceWithin = 2000;

export interface Entry {
  name: string;
  room: string;
  /** Instead of an invite. */
  token: string;
}

const words: Record<Input, { icon: 'mic' | 'camera'; off: 'micOff' | 'cameraOff'; name: string; key: string }> = {
  microphone: { icon: 'mic', off: 'micOff', name: 'microphone', key: 'M' },
  camera: { icon: 'camera', off: 'cameraOff', name: 'camera', key: 'V' },
};

export class Lobby {
  readonly element: HTMLElement;
  private readonly video = h('video', { 'playsinline': true, 'autoplay': true, 'class': 'mirror', 'data-testid': 'preview', 'aria-label': 'Your own picture' });
  private readonly notice = h('p', { class: 'preview-notice' });
  private readonly level = h('div', { 'class': 'meter', 'data-testid': 'mic-level', 'aria-hidden': 'true' }, h('i'), h('i'), h('i'), h('i'), h('i'));
  private readonly toggles: Record<Input, HTMLButtonElement>;
  private readonly pickers: Record<Input, HTMLSelectElement>;
  private readonly name: HTMLInputElement;
  private readonly room: HTMLInputElement;
  private readonly token: HTMLInputElement;
  private readonly problem = h('p', { 'class': 'problem', 'role': 'alert', 'data-testid': 'join-error', 'hidden': true });
  private readonly button: HTMLButtonElement;
  private stopMeter: (() => void) | null = null;
  private readonly opening = new Set<Promise<unknown>>();
  private readonly onKey = (e: KeyboardEvent) => this.key(e);

  constructor(private readonly link: Link, private readonly devices: Devices, private readonly enter: (e: Entry) => Promise<void>) {
    this.toggles = { microphone: this.toggle('microphone'), camera: this.toggle('camera') };
    this.pickers = { microphone: this.picker('microphone'), camera: this.picker('camera') };
    this.name = h('input', { 'id': 'name', 'autocomplete': 'name', 'maxlength': 40, 'placeholder': 'How others will see you', 'required': true, 'data-testid': 'name-input', 'value': kept.get('name') });
    this.room = h('input', { 'id': 'room', 'autocomplete': 'off', 'maxlength': 64, 'required': true, 'spellcheck': 'false', 'pattern': '[^\\s_"\\/\\\\?#][^\\s"\\/\\\\?#]*', 'title': 'No spaces, quotes or slashes', 'data-testid': 'room-input', 'value': link.room });
    this.token = h('input', { 'id': 'token', 'autocomplete': 'off', 'required': true, 'spellcheck': 'false', 'data-testid': 'token-input', 'placeholder': 'Paste it here' });
    this.button = h('button', { 'class': 'primary', 'type': 'submit', 'data-testid': 'join' }, 'Join');
    this.element = this.page();
    addEventListener('keydown', this.onKey);
    if (navigator.mediaDevices) navigator.mediaDevices.ondevicechange = () => void this.fillPickers();
    void this.openAll();
  }

  /** Says why the call could not be entered. */
  fail(text: string): void {
    this.problem.textContent = text;
    this.problem.hidden = false;
    this.busy(false);
  }

  /** Puts the cursor where it is wanted. */
  focus(): void {
    (this.name.value ? this.button : this.name).focus();
  }

  close(): void {
    removeEventListener('keydown', this.onKey);
    this.stopMeter?.();
    this.video.srcObject = null;
  }

  private page(): HTMLElement {
    const field = (label: string, control: HTMLElement, id: string, hint?: string) =>
      h('div', { class: 'field' }, h('label', { for: id }, label), control, hint ? h('small', {}, hint) : null);
    const form = h('form', { class: 'lobby-form', submit: (e: SubmitEvent) => this.submit(e) },
      h('h1', {}, 'Ready when you are'),
      h('p', { class: 'lead' }, 'Check how you look and sound, then step in.'),
      field('Your name', this.name, 'name'),
      this.link.invite ? null : field('Token', this.token, 'token', 'This page was opened without an invitation link, so it needs a token.'),
      field('Room', this.room, 'room'),
      h('div', { class: 'pair' },
        field('Microphone', this.pickers.microphone, 'microphone'),
        field('Camera', this.pickers.camera, 'camera')),
      this.problem,
      this.button,
      h('p', { class: 'assurance' }, icon('lock'), 'Sound and picture travel encrypted, through your own relays only.'));
    return h('div', { 'class': 'lobby', 'data-testid': 'lobby' },
      h('header', { class: 'bar' }, brand(), h('span', { class: 'spring' }), themeButton()),
      h('main', { class: 'lobby-main' },
        h('section', { 'class': 'preview', 'aria-label': 'Preview' },
          this.video, this.notice,
          h('div', { class: 'preview-controls' }, this.toggles.microphone, this.toggles.camera),
          this.level),
        form));
  }

  private toggle(input: Input): HTMLButtonElement {
    return h('button', {
      'class': 'round', 'type': 'button', 'data-testid': input === 'camera' ? 'cam-toggle' : 'mic-toggle',
      'click': () => void this.flip(input),
    });
  }

  private picker(input: Input): HTMLSelectElement {
    return h('select', {
      'id': input, 'data-testid': `device-${input}`,
      'change': (e: Event) => {
        this.devices.choose(input, (e.target as HTMLSelectElement).value);
        void this.open(input);
      },
    });
  }

  private async openAll(): Promise<void> {
    this.draw();
    await Promise.all([this.open('microphone'), this.open('camera')]);
    await this.fillPickers();
  }

  private async open(input: Input): Promise<void> {
    const opened = this.devices.open(input);
    this.opening.add(opened);
    try {
      await opened;
    } finally {
      this.opening.delete(opened);
    }
    this.draw();
  }

  private async flip(input: Input): Promise<void> {
    if (this.devices.tracks[input]) {
      this.devices.close(input);
      this.draw();
    } else await this.open(input);
  }

  private draw(): void {
    const { camera, microphone } = this.devices.tracks;
    if (camera) this.video.srcObject = new MediaStream([camera]);
    this.video.hidden = !camera;
    this.notice.hidden = camera !== null;
    this.notice.textContent = this.why();
    for (const input of ['microphone', 'camera'] as const) this.drawToggle(input);
    this.stopMeter?.();
    this.stopMeter = microphone ? meter(microphone, (l) => this.drawLevel(l)) : null;
    if (!microphone) this.drawLevel(0);
    const silent = !camera && !microphone && (this.devices.errors.camera || this.devices.errors.microphone);
    this.button.textContent = silent ? 'Join without camera or microphone' : 'Join';
  }

  private drawToggle(input: Input): void {
    const on = this.devices.tracks[input] !== null;
    const w = words[input];
    const button = this.toggles[input];
    button.replaceChildren(icon(on ? w.icon : w.off));
    button.classList.toggle('off', !on);
    button.setAttribute('aria-pressed', String(on));
    button.setAttribute('aria-label', `${on ? 'Turn off' : 'Turn on'} ${w.name}`);
    button.title = `${on ? 'Turn off' : 'Turn on'} ${w.name} (${w.key})`;
  }

  private drawLevel(level: number): void {
    const bars = this.level.children;
    for (let i = 0; i < bars.length; i++) bars[i]!.classList.toggle('lit', level * bars.length > i + 0.3);
  }

  private why(): string {
    const error = this.devices.errors.camera;
    switch (error?.code) {
      case undefined: return 'Your camera is off';
      case 'device_refused': return 'The camera was not allowed. You can still join, or allow it in the address bar and turn it on here.';
      case 'device_missing': return 'No camera was found. You can still join with your voice.';
      case 'device_busy': return 'The camera is used by another program. Close that and turn it on here.';
      default: return error!.message;
    }
  }

  private async fillPickers(): Promise<void> {
    for (const input of ['microphone', 'camera'] as const) {
      const select = this.pickers[input];
      const list = await this.devices.list(input);
      const current = this.devices.tracks[input]?.getSettings().deviceId ?? this.devices.chosen[input];
      select.replaceChildren(...list.map((d, i) => h('option', { value: d.deviceId, selected: d.deviceId === current }, d.label || `${words[input].name} ${i + 1}`)));
      if (list.length === 0) select.append(h('option', { value: '' }, `No ${words[input].name}`));
      select.disabled = list.length === 0;
    }
  }

  private async submit(e: SubmitEvent): Promise<void> {
    e.preventDefault();
    const name = this.name.value.trim();
    if (!name) return this.name.focus();
    kept.set('name', name);
    this.problem.hidden = true;
    this.busy(true);
    // Who joins quickly is still to be heard: a device on its way is waited for, a forgotten question of the browser is not.
    await Promise.race([Promise.allSettled(this.opening), new Promise((r) => setTimeout(r, deviceWithin))]);
    await this.enter({ name, room: this.room.value.trim(), token: this.token.value.trim() });
  }

  private busy(on: boolean): void {
    this.button.disabled = on;
    this.button.classList.toggle('busy', on);
  }

  private key(e: KeyboardEvent): void {
    if (typing(e)) return;
    if (e.key === 'm') void this.flip('microphone');
    if (e.key === 'v') void this.flip('camera');
  }
}

/** Whether a key belongs to a field or to the browser, and so is no shortcut. */
export function typing(e: KeyboardEvent): boolean {
  const t = e.target as HTMLElement | null;
  return e.ctrlKey || e.metaKey || e.altKey || e.repeat || (t !== null && /^(INPUT|TEXTAREA|SELECT)$/.test(t.tagName));
}

export function brand(): HTMLElement {
  return h('span', { class: 'brand' }, h('img', { src: 'icon.svg', alt: '', width: 28, height: 28 }), 'Orama');
}
