// Light and dark: the system's choice until the button is used.

import { h, kept } from './dom.js';
import { icon } from './icons.js';

const system = matchMedia('(prefers-color-scheme: dark)');

function dark(): boolean {
  const chosen = document.documentElement.dataset['theme'];
  return chosen ? chosen === 'dark' : system.matches;
}

/** Applies what was chosen on an earlier visit. */
export function restoreTheme(): void {
  const chosen = kept.get('theme');
  if (chosen === 'dark' || chosen === 'light') document.documentElement.dataset['theme'] = chosen;
}

export function themeButton(): HTMLButtonElement {
  const button = h('button', { 'class': 'quiet', 'type': 'button', 'data-testid': 'theme-toggle', 'click': toggle });
  const draw = () => {
    const to = dark() ? 'light' : 'dark';
    button.setAttribute('aria-label', `Switch to ${to} colours`);
    button.title = `Switch to ${to} colours`;
    button.replaceChildren(icon(dark() ? 'sun' : 'moon'));
  };
  function toggle(): void {
    const next = dark() ? 'light' : 'dark';
    document.documentElement.dataset['theme'] = next;
    kept.set('theme', next);
    draw();
  }
  system.addEventListener('change', draw);
  draw();
  return button;
}
