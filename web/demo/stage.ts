// Where the tiles are: a grid, or one screen large with the people beside it.

import { h } from './dom.js';
import { icon } from './icons.js';
import { fit } from './layout.js';
import { Tile, type TileOptions } from './tile.js';

const gap = 12;

export class Stage {
  readonly element: HTMLElement;
  private readonly focus = h('div', { class: 'stage-focus' });
  private readonly people = h('div', { class: 'stage-people' });
  private readonly tiles = new Map<string, Tile>();
  private readonly resize = new ResizeObserver(() => this.measure());
  private featured = ''; // key of the screen shown large

  constructor(private readonly alone: HTMLElement, private readonly blocked: () => void) {
    this.element = h('main', { 'class': 'stage', 'aria-label': 'People in the call' }, this.focus, this.people);
    this.resize.observe(this.element);
  }

  get all(): Iterable<Tile> {
    return this.tiles.values();
  }

  get(peerId: string, screen = false): Tile | undefined {
    return this.tiles.get(key(peerId, screen));
  }

  /** The tile of a person, or of a screen; made when there is none. */
  put(options: TileOptions): Tile {
    const id = key(options.peerId, options.screen);
    let tile = this.tiles.get(id);
    if (!tile) {
      tile = new Tile(options, this.blocked);
      this.tiles.set(id, tile);
      if (options.screen) this.feature(id);
      this.arrange();
    }
    return tile;
  }

  remove(peerId: string, screen = false): void {
    const id = key(peerId, screen);
    this.tiles.get(id)?.remove();
    this.tiles.delete(id);
    if (this.featured === id) this.featured = [...this.tiles.keys()].reverse().find((k) => this.tiles.get(k)!.options.screen) ?? '';
    this.arrange();
  }

  clear(): void {
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
    this.featured = '';
  }

  close(): void {
    this.resize.disconnect();
    this.clear();
  }

  private feature(id: string): void {
    this.featured = id;
  }

  private arrange(): void {
    const large = this.tiles.get(this.featured);
    this.element.classList.toggle('has-focus', large !== undefined);
    place(this.focus, large ? [large.element] : []);
    const rest = [...this.tiles].filter(([id]) => id !== this.featured).map(([, t]) => t.element);
    const people = new Set([...this.tiles.values()].map((t) => t.options.peerId));
    place(this.people, people.size === 1 && !large ? [...rest, this.alone] : rest);
    this.measure();
  }

  private measure(): void {
    if (this.element.classList.contains('has-focus')) return;
    const style = getComputedStyle(this.element);
    const width = this.element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = this.element.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const best = fit(this.people.childElementCount, width, height, gap);
    this.people.style.setProperty('--tile-width', `${best.width}px`);
    this.people.style.setProperty('--tile-height', `${best.height}px`);
  }
}

function key(peerId: string, screen: boolean): string {
  return `${screen ? 'screen' : 'person'} ${peerId}`;
}

// Moving an element restarts its video, so only what is out of place is moved.
function place(parent: HTMLElement, wanted: HTMLElement[]): void {
  const keep = new Set<Element>(wanted);
  for (const child of [...parent.children]) if (!keep.has(child)) child.remove();
  wanted.forEach((el, i) => {
    if (parent.children[i] !== el) parent.insertBefore(el, parent.children[i] ?? null);
  });
}

/** The tile that is shown while nobody else is here. */
export function invitation(url: string, copy: (b: HTMLButtonElement) => void): HTMLElement {
  return h('section', { 'class': 'tile invitation', 'data-testid': 'empty-state' },
    h('div', { class: 'invitation-text' },
      h('h2', {}, 'You are the first one here'),
      h('p', {}, 'Send the link to somebody, or open it in another tab to meet yourself.'),
      h('div', { class: 'invitation-actions' },
        h('button', { 'class': 'primary', 'type': 'button', 'data-testid': 'copy-link', 'click': (e: MouseEvent) => copy(e.currentTarget as HTMLButtonElement) }, icon('copy'), h('span', {}, 'Copy the link')),
        h('a', { 'class': 'secondary', 'href': url, 'target': '_blank', 'rel': 'noopener', 'data-testid': 'open-tab' }, icon('open'), 'Open in another tab'))));
}
