// When to try again.

/** Says how long to wait before a try. */
export interface RetryPolicy {
  /** attempt counts from 0; the result is in ms, null means to give up. */
  delay(attempt: number): number | null;
}

export interface BackoffOptions {
  /** ms before the second try; it doubles from there. */
  base?: number;
  /** ms at most. */
  cap?: number;
  /** tries before giving up. */
  tries?: number;
  /** 0 to 1. */
  random?: () => number;
}

/**
 * The first try is at once; later ones wait twice as long each time up to the cap, of which a
 * random half is taken off so that the peers of a lost server do not all come back together.
 */
export function backoff({ base = 400, cap = 5000, tries = 40, random = Math.random }: BackoffOptions = {}): RetryPolicy {
  return {
    delay(attempt) {
      if (attempt >= tries) return null;
      if (attempt === 0) return 0;
      const full = Math.min(cap, base * 2 ** (attempt - 1));
      return Math.round(full * (1 - random() / 2));
    },
  };
}
