// Elements without a framework.

type Child = Node | string | null | undefined | false;
type Attribute = string | number | boolean | ((e: never) => void) | undefined;

/** Makes an element. Functions become listeners, true and false set or leave out an attribute. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K, attributes: Record<string, Attribute> = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') el.addEventListener(name, value as EventListener);
    else if (value === true) el.setAttribute(name, '');
    else if (value !== false && value !== undefined) el.setAttribute(name, String(value));
  }
  el.append(...children.filter((c): c is Node | string => c !== null && c !== undefined && c !== false));
  return el;
}

/** Tells a screen reader. */
export function announce(text: string): void {
  const live = document.getElementById('live');
  if (live) live.textContent = text;
}

/** Reads and writes what is kept between visits; a browser may refuse to keep anything. */
export const kept = {
  get(key: string): string {
    try {
      return localStorage.getItem(`orama.${key}`) ?? '';
    } catch {
      return '';
    }
  },
  set(key: string, value: string): void {
    try {
      localStorage.setItem(`orama.${key}`, value);
    } catch {
      // then it is asked for again
    }
  },
};
