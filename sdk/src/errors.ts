// What can go wrong, as one class with a stable code, and the one place that decides what a
// closed socket means.

/** An error with a stable code. Codes of the protocol are used as they are (docs/protocol.md). */
export class OramaError extends Error {
  override readonly name = 'OramaError';

  constructor(
    /** Stable, snake_case, such as "unauthorized", "room_closed", "unreachable". */
    readonly code: string,
    message: string,
    /** Whether the same call may work later. */
    readonly retryable = false,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

/** What to do after a socket closed. */
export type AfterClose =
  | 'stop' // for good
  | 'new-token' // again, with a new token
  | 'now' // again, at once
  | 'later'; // again, after a while

interface Closed {
  next: AfterClose;
  error: OramaError;
}

/** Decides what a close code means (docs/protocol.md, "Close codes"). Unknown codes are worth another try. */
export function afterClose(code: number): Closed {
  const stop = (name: string, text: string): Closed => ({ next: 'stop', error: new OramaError(name, text) });
  const again = (next: AfterClose, name: string, text: string): Closed =>
    ({ next, error: new OramaError(name, text, true) });
  switch (code) {
    case 1000: return stop('left', 'the room was left');
    case 1009: return stop('too_large', 'a frame was too large');
    case 4400: return stop('malformed', 'a frame was malformed');
    case 4401: return again('new-token', 'unauthorized', 'the token is no longer good');
    case 4403: return stop('forbidden', 'the token does not allow this room');
    case 4404: return stop('room_closed', 'the room is closed or does not exist');
    case 4408: return again('now', 'too_slow', 'no frame was sent in time');
    case 4409: return stop('resumed_elsewhere', 'another connection took this one over');
    case 4410: return stop('kicked', 'removed from the room');
    case 4413: return again('later', 'full', 'the room is full');
    case 4429: return again('later', 'limited', 'frames were sent too fast or read too slowly');
    case 4500: return again('now', 'internal', 'the server made a mistake');
    case 4503: return again('now', 'gone', 'the server went away');
    default: return again('now', 'lost', 'the connection was lost');
  }
}
