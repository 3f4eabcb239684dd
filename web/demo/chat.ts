// The chat: a list of texts and a field to write the next one.

import { h } from './dom.js';
import { icon } from './icons.js';

export class Chat {
  readonly element: HTMLElement;
  private readonly list = h('ol');
  private readonly log = h('div', { 'class': 'chat-list', 'data-testid': 'chat-list', 'role': 'log', 'aria-live': 'polite', 'aria-label': 'Messages', 'tabindex': 0 }, this.list);
  private readonly empty = h('li', { class: 'chat-empty' }, 'Messages are seen by everyone who is in the room now. They are not kept.');
  private readonly field = h('textarea', {
    'rows': 1, 'maxlength': 4000, 'placeholder': 'Write to everyone', 'aria-label': 'Message', 'data-testid': 'chat-input',
    'keydown': (e: KeyboardEvent) => this.key(e), 'input': () => this.grow(),
  });
  private lastFrom = '';

  constructor(private readonly send: (text: string) => void, close: () => void) {
    this.list.append(this.empty);
    this.element = h('aside', { 'class': 'chat', 'aria-label': 'Chat', 'data-testid': 'chat', 'hidden': true },
      h('header', {}, h('h2', {}, 'Chat'), h('button', { 'class': 'quiet', 'type': 'button', 'aria-label': 'Close the chat', 'click': close }, icon('close'))),
      this.log,
      h('form', { class: 'chat-form', submit: (e: SubmitEvent) => { e.preventDefault(); this.submit(); } },
        this.field, h('button', { 'class': 'round small accent', 'type': 'submit', 'aria-label': 'Send', 'data-testid': 'chat-send' }, icon('send'))));
  }

  focus(): void {
    this.field.focus();
  }

  message(from: string, name: string, text: string, own: boolean): void {
    this.empty.remove();
    const follows = this.lastFrom === from;
    this.lastFrom = from;
    this.append(h('li', { 'class': `message${own ? ' own' : ''}${follows ? ' follows' : ''}`, 'data-testid': 'chat-message' },
      follows ? null : h('div', { class: 'message-head' }, h('b', {}, own ? 'You' : name), h('time', {}, new Date().toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }))),
      h('p', { 'data-testid': 'chat-text' }, text)));
  }

  /** A line about the call itself. */
  note(text: string): void {
    this.lastFrom = '';
    this.append(h('li', { class: 'note' }, text));
  }

  private append(item: HTMLElement): void {
    const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
    this.list.append(item);
    if (atEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  private key(e: KeyboardEvent): void {
    if (e.key !== 'Enter' || e.shiftKey || e.isComposing) return;
    e.preventDefault();
    this.submit();
  }

  private submit(): void {
    const text = this.field.value.trim();
    if (!text) return;
    this.field.value = '';
    this.grow();
    this.send(text);
  }

  private grow(): void {
    this.field.style.height = 'auto';
    this.field.style.height = `${Math.min(this.field.scrollHeight, 120)}px`;
  }
}
