// The call: the room's events on the stage, and the controls below it.

import { type OramaError, Publication, type RemotePeer, type RemoteTrack, type Room, type RoomState } from '../../sdk/src/index.js';
import { Chat } from './chat.js';
import { type Devices, type Input, meter } from './devices.js';
import { announce, h } from './dom.js';
import { icon, type IconName } from './icons.js';
import { type Link, shareURL } from './invite.js';
import { brand, typing } from './lobby.js';
import { invitation, Stage } from './stage.js';
import { themeButton } from './theme.js';
import type { Tile } from './tile.js';

/** ms between looks at the statistics. */
const statsEvery = 1000;
/** Wishes told in that time: the SFU closes sockets that say more than 10 things a second for long. */
const fitMost = 4;

const texts: Record<RoomState, string> = {
  connecting: 'Connecting…',
  connected: 'Connected',
  recovering: 'The connection was interrupted. Bringing it back…',
  closed: 'The call has ended',
};

export class Call {
  readonly element: HTMLElement;
  private readonly stage: Stage;
  private readonly chat: Chat;
  private readonly banner = h('div', { 'class': 'banner', 'role': 'status', 'data-testid': 'banner', 'hidden': true });
  private readonly state = h('span', { 'class': 'state', 'data-testid': 'state' });
  private readonly count = h('span', { 'class': 'count', 'data-testid': 'people-count' });
  private readonly buttons: Record<'mic' | 'cam' | 'share' | 'chat', HTMLButtonElement>;
  private readonly badge = h('span', { 'class': 'unread', 'data-testid': 'chat-unread', 'hidden': true });
  private readonly published: Record<Input | 'screen', Publication | null> = { microphone: null, camera: null, screen: null };
  private readonly undo: (() => void)[] = [];
  private readonly fitted = new Map<string, number>(); // by track: the width that was asked for
  private own!: Tile;
  private unread = 0;
  private stopMeter: (() => void) | null = null;
  private readonly statsTimer: ReturnType<typeof setInterval>;
  private readonly onKey = (e: KeyboardEvent) => this.key(e);

  constructor(
    private readonly room: Room, private readonly name: string, private readonly link: Link,
    private readonly devices: Devices, private readonly left: (error?: OramaError) => void,
  ) {
    this.stage = new Stage(invitation(shareURL(link), (b) => void this.copy(b)), () => this.soundBlocked());
    this.chat = new Chat((text) => this.say(text), () => this.toggleChat(false));
    this.buttons = {
      mic: this.control('mic-toggle', 'Microphone', 'M', () => void this.flip('microphone')),
      cam: this.control('cam-toggle', 'Camera', 'V', () => void this.flip('camera')),
      share: this.control('share-toggle', 'Share your screen', 'S', () => void this.share()),
      chat: this.control('chat-toggle', 'Chat', 'C', () => this.toggleChat()),
    };
    this.buttons.chat.append(icon('chat'), this.badge);
    this.buttons.chat.setAttribute('aria-expanded', 'false');
    this.element = this.page();
    for (const p of room.publications) this.published[p.source as Input] = p;
    this.subscribe();
    this.start();
    this.statsTimer = setInterval(() => {
      this.fit();
      void this.readStats();
    }, statsEvery);
    addEventListener('keydown', this.onKey);
  }

  close(): void {
    clearInterval(this.statsTimer);
    removeEventListener('keydown', this.onKey);
    this.stopMeter?.();
    for (const off of this.undo) off();
    this.stage.close();
    this.devices.close('camera');
    this.devices.close('microphone');
  }

  private page(): HTMLElement {
    const leave = h('button', { 'class': 'round leave', 'type': 'button', 'aria-label': 'Leave the call', 'title': 'Leave the call', 'data-testid': 'leave', 'click': () => this.room.leave() }, icon('leave'));
    const share = typeof navigator.mediaDevices?.getDisplayMedia === 'function' ? this.buttons.share : null;
    return h('div', { 'class': 'call', 'data-testid': 'call' },
      h('header', { class: 'bar' }, brand(), h('h1', { 'class': 'room-name', 'data-testid': 'room-name' }, this.room.name), this.state, h('span', { class: 'spring' }),
        this.count,
        h('button', { 'class': 'quiet wide', 'type': 'button', 'data-testid': 'copy-link-bar', 'aria-label': 'Copy the link', 'click': (e: MouseEvent) => void this.copy(e.currentTarget as HTMLButtonElement) }, icon('copy'), h('span', {}, 'Copy the link')),
        themeButton()),
      h('div', { class: 'call-body' }, h('div', { class: 'call-stage' }, this.banner, this.stage.element), this.chat.element),
      h('footer', {}, h('div', { 'class': 'dock', 'role': 'toolbar', 'aria-label': 'Call controls' }, this.buttons.mic, this.buttons.cam, share, this.buttons.chat, leave)));
  }

  private control(id: string, label: string, key: string, click: () => void): HTMLButtonElement {
    return h('button', { 'class': 'round', 'type': 'button', 'data-testid': id, 'aria-label': label, 'aria-keyshortcuts': key, 'title': `${label} (${key})`, 'click': click });
  }

  private start(): void {
    this.own = this.stage.put({ peerId: 'self', name: this.name, screen: false, own: true });
    for (const peer of this.room.peers.values()) this.peerJoined(peer, false);
    this.room.chat(''); // opens the channel, so that the first text need not wait for it
    this.drawOwn();
    this.drawState(this.room.state);
  }

  private subscribe(): void {
    const r = this.room;
    this.undo.push(
      r.on('state', ({ state, error }) => this.drawState(state, error)),
      r.on('peer-joined', ({ peer }) => this.peerJoined(peer, true)),
      r.on('peer-left', ({ peer, reason }) => this.peerLeft(peer, reason)),
      r.on('track', ({ peer, track }) => this.showTrack(peer, track)),
      r.on('track-ended', ({ peer, track }) => this.hideTrack(peer, track)),
      r.on('track-published', ({ peer }) => this.drawPeer(peer)),
      r.on('track-unpublished', ({ peer }) => this.drawPeer(peer)),
      r.on('track-muted', ({ peer, track, muted }) => {
        if (muted) this.hideTrack(peer, track);
        else this.showTrack(peer, track);
      }),
      r.on('speakers', ({ levels }) => {
        for (const l of levels) if (l.peerId !== r.peerId) this.stage.get(l.peerId)?.speak(l.level);
      }),
      r.on('chat', ({ peer, text }) => this.heard(peer, text)),
      r.on('local', ({ publication }) => this.ownChanged(publication)),
    );
  }

  // --- the others

  private peerJoined(peer: RemotePeer, tell: boolean): void {
    this.stage.put({ peerId: peer.id, name: peer.name || peer.userId, screen: false, own: false });
    for (const track of peer.tracks.values()) this.showTrack(peer, track);
    this.drawPeer(peer);
    this.drawCount();
    if (tell && this.room.state === 'connected') this.note(`${peer.name || peer.userId} joined`);
  }

  private peerLeft(peer: RemotePeer, reason: string): void {
    this.stage.remove(peer.id);
    this.stage.remove(peer.id, true);
    this.drawCount();
    if (reason !== 'moved') this.note(`${peer.name || peer.userId} ${reason === 'lost' ? 'lost the connection' : 'left'}`);
  }

  private showTrack(peer: RemotePeer, track: RemoteTrack): void {
    const screen = track.source === 'screen';
    if (screen && track.kind === 'video' && track.media) {
      this.stage.put({ peerId: peer.id, name: peer.name || peer.userId, screen: true, own: false }).setVideo(track.media);
      return this.note(`${peer.name || peer.userId} shares a screen`);
    }
    const tile = this.stage.get(peer.id);
    if (track.kind === 'audio') tile?.setAudio(track.media);
    else tile?.setVideo(track.muted ? null : track.media);
    this.drawPeer(peer);
  }

  private hideTrack(peer: RemotePeer, track: RemoteTrack): void {
    if (!peer.tracks.has(track.id)) this.fitted.delete(track.id);
    if (track.kind === 'video' && track.source === 'screen') this.stage.remove(peer.id, true);
    else if (track.kind === 'video') this.stage.get(peer.id)?.setVideo(null);
    else if (!track.media) this.stage.get(peer.id)?.setAudio(null);
    this.drawPeer(peer);
  }

  private drawPeer(peer: RemotePeer): void {
    const voices = [...peer.tracks.values()].filter((t) => t.kind === 'audio');
    this.stage.get(peer.id)?.setMuted(voices.every((t) => t.muted));
  }

  private drawCount(): void {
    const n = this.room.peers.size + 1;
    this.count.replaceChildren(icon('people'), String(n));
    this.count.setAttribute('aria-label', n === 1 ? 'Only you' : `${n} people`);
    document.title = `${this.room.name} · Orama`;
  }

  // --- ourselves

  private async flip(input: Input): Promise<void> {
    const p = this.published[input];
    if (p && !p.stopped && !p.muted) {
      await p.mute();
      if (input === 'camera') this.devices.close('camera');
    } else await this.turnOn(input, p);
    this.drawOwn();
    announce(`Your ${input} is ${this.isOn(input) ? 'on' : 'off'}`);
  }

  private async turnOn(input: Input, p: Publication | null): Promise<void> {
    const track = p && p.media.readyState === 'live' ? p.media : await this.devices.open(input);
    if (!track) return this.complain(this.devices.errors[input]!);
    try {
      if (!p || p.stopped) this.published[input] = await this.room.publish(track, { source: input });
      else {
        if (p.media !== track) await p.replace(track);
        await p.unmute();
      }
    } catch (e) {
      this.complain(e as OramaError);
    }
  }

  private isOn(input: Input): boolean {
    const p = this.published[input];
    return p !== null && !p.stopped && !p.muted && p.media.readyState === 'live';
  }

  private async share(): Promise<void> {
    if (this.published.screen && !this.published.screen.stopped) return this.published.screen.stop();
    try {
      this.published.screen = await this.room.publish('screen');
    } catch (e) {
      if ((e as OramaError).code !== 'device_refused') this.complain(e as OramaError);
    }
  }

  private ownChanged(p: Publication): void {
    if (p.source === 'screen') {
      if (p.stopped) this.stage.remove('self', true);
      else this.stage.put({ peerId: 'self', name: this.name, screen: true, own: true }).setVideo(p.media);
    }
    this.drawOwn();
  }

  private drawOwn(): void {
    const mic = this.isOn('microphone');
    const cam = this.isOn('camera');
    this.own.setVideo(cam ? this.published.camera!.media : null);
    this.own.setMuted(!mic);
    this.drawControl(this.buttons.mic, mic, 'mic', 'micOff', mic ? 'Mute your microphone' : 'Unmute your microphone', 'M');
    this.drawControl(this.buttons.cam, cam, 'camera', 'cameraOff', cam ? 'Turn your camera off' : 'Turn your camera on', 'V');
    const sharing = this.published.screen !== null && !this.published.screen.stopped;
    this.drawControl(this.buttons.share, true, 'screen', 'screen', sharing ? 'Stop sharing' : 'Share your screen', 'S');
    this.buttons.share.classList.toggle('active', sharing);
    this.buttons.share.setAttribute('aria-pressed', String(sharing));
    this.stopMeter?.();
    this.stopMeter = mic ? meter(this.published.microphone!.media, (l) => this.own.speak(l > 0.35 ? l : 0)) : null;
  }

  private drawControl(b: HTMLButtonElement, on: boolean, yes: IconName, no: IconName, label: string, key: string): void {
    b.replaceChildren(icon(on ? yes : no));
    b.classList.toggle('off', !on);
    b.setAttribute('aria-pressed', String(on));
    b.setAttribute('aria-label', label);
    b.title = `${label} (${key})`;
  }

  // --- chat

  private toggleChat(show = !this.chatOpen): void {
    this.chat.element.hidden = !show;
    this.element.classList.toggle('with-chat', show);
    this.buttons.chat.setAttribute('aria-expanded', String(show));
    this.buttons.chat.classList.toggle('active', show);
    if (show) {
      this.setUnread(0);
      this.chat.focus();
    } else this.buttons.chat.focus();
  }

  private get chatOpen(): boolean {
    return !this.chat.element.hidden;
  }

  private say(text: string): void {
    try {
      this.room.chat(text);
      this.chat.message('self', this.name, text, true);
    } catch (e) {
      this.complain(e as OramaError);
    }
  }

  private heard(peer: RemotePeer | undefined, text: string): void {
    const name = peer ? peer.name || peer.userId : 'Somebody';
    this.chat.message(peer?.id ?? '', name, text, false);
    if (!this.chatOpen) this.setUnread(this.unread + 1);
    if (!this.chatOpen) announce(`${name} wrote: ${text}`);
  }

  private setUnread(n: number): void {
    this.unread = n;
    this.badge.hidden = n === 0;
    this.badge.textContent = n > 9 ? '9+' : String(n);
    this.buttons.chat.setAttribute('aria-label', n ? `Chat, ${n} new` : 'Chat');
  }

  private note(text: string): void {
    this.chat.note(text);
    announce(text);
  }

  // --- the connection

  private drawState(state: RoomState, error?: OramaError): void {
    this.element.dataset['state'] = state;
    this.state.dataset['state'] = state;
    this.state.replaceChildren(h('i'), h('span', {}, state === 'recovering' ? 'Reconnecting…' : texts[state]));
    this.show(state === 'recovering' ? texts.recovering : '');
    if (state !== 'connected') announce(texts[state]);
    this.drawCount();
    if (state === 'closed') this.left(error);
  }

  private show(text: string, action?: HTMLElement): void {
    this.banner.hidden = !text;
    this.banner.replaceChildren(text, ...(action ? [action] : []));
  }

  private complain(error: OramaError): void {
    const close = h('button', { 'class': 'quiet', 'type': 'button', 'aria-label': 'Dismiss', 'click': () => this.show('') }, icon('close'));
    this.show(sentence(error), close);
  }

  private soundBlocked(): void {
    const start = h('button', { class: 'secondary small', type: 'button', click: () => {
      for (const t of this.stage.all) t.resume();
      this.show('');
    } }, 'Turn sound on');
    this.show('The browser holds the sound back.', start);
  }

  /** Asks for pictures no larger than they are shown. Encodings are each twice the one before: the largest below twice a tile fills it. */
  private fit(): void {
    if (this.room.state !== 'connected') return this.fitted.clear(); // what is said now may get lost
    let left = fitMost;
    for (const peer of this.room.peers.values()) {
      for (const track of peer.tracks.values()) {
        const shown = track.kind === 'video' ? this.stage.get(peer.id, track.source === 'screen')?.pixels : 0;
        if (!shown || this.fitted.get(track.id) === shown) continue;
        if (left-- === 0) return;
        this.fitted.set(track.id, shown);
        this.room.prefer(track.id, { max_width: 2 * shown - 1 });
      }
    }
  }

  private async readStats(): Promise<void> {
    const open = [...this.stage.all].filter((t) => t.showsPath);
    const stats = await this.room.stats().catch(() => null);
    if (!stats) return;
    const transport = stats.path?.type === 'relay' ? stats.path.transport.toUpperCase() : '';
    if (this.room.state === 'connected') this.state.lastElementChild!.textContent = transport ? `Connected over ${transport} relay` : 'Connected';
    for (const tile of open) {
      const { peerId, own, screen } = tile.options;
      tile.setStats(stats.path, stats.tracks.filter((t) => (own ? this.isOwn(t.mid, screen) && t.direction === 'up' : this.isOf(t.trackId, peerId, screen))));
    }
  }

  private isOf(trackId: string | undefined, peerId: string, screen: boolean): boolean {
    const track = trackId === undefined ? undefined : this.room.peers.get(peerId)?.tracks.get(trackId);
    return track !== undefined && (track.source === 'screen') === screen;
  }

  private isOwn(mid: string, screen: boolean): boolean {
    const p = this.room.publicationOn(mid);
    return p !== undefined && (p.source === 'screen') === screen;
  }

  private async copy(button: HTMLButtonElement): Promise<void> {
    const label = button.querySelector('span');
    try {
      await navigator.clipboard.writeText(shareURL(this.link));
      if (label) label.textContent = 'Copied';
      announce('The link was copied');
    } catch {
      prompt('Copy this link', shareURL(this.link));
    }
    setTimeout(() => {
      if (label) label.textContent = 'Copy the link';
    }, 2000);
  }

  private key(e: KeyboardEvent): void {
    if (e.key === 'Escape' && this.chatOpen) return this.toggleChat(false);
    if (typing(e)) return;
    const actions: Record<string, () => void> = {
      m: () => void this.flip('microphone'),
      v: () => void this.flip('camera'),
      s: () => void this.share(),
      c: () => this.toggleChat(),
      i: () => this.togglePaths(),
    };
    const action = actions[e.key.toLowerCase()];
    if (!action) return;
    e.preventDefault();
    action();
  }

  private togglePaths(): void {
    const show = ![...this.stage.all].some((t) => t.showsPath);
    for (const t of this.stage.all) t.showPath(show);
    void this.readStats();
  }
}

/** An error as a person wants to read it. */
export function sentence(error: OramaError): string {
  switch (error.code) {
    case 'unauthorized': return 'The token is not valid any more. Ask for a new one.';
    case 'forbidden': return 'You are not allowed into this room.';
    case 'unreachable': return 'The server cannot be reached. Check your network and try again.';
    case 'room_closed': return 'The room was closed.';
    case 'kicked': return 'You were removed from the room.';
    case 'resumed_elsewhere': return 'This call was continued in another tab.';
    case 'limited': return 'Too many people are joining at once. Try again in a moment.';
    case 'device_refused': return 'The browser did not allow it. Allow the device in the address bar and try again.';
    case 'device_missing': return 'No such device was found.';
    case 'device_busy': return 'The device is used by another program.';
    default: return error.message.charAt(0).toUpperCase() + error.message.slice(1) + (error.message.endsWith('.') ? '' : '.');
  }
}
