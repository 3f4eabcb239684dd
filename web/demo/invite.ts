// What the link says, and the token that it is good for.

import { OramaError, type Transport } from '../../sdk/src/index.js';

/** The room when a link names none: two tabs of one link meet. */
const defaultRoom = 'lobby';

export interface Link {
  /** "" when the page was opened without one. */
  invite: string;
  room: string;
  transports: Transport[];
  /** Size of the camera's picture, when the link asks for one. */
  video: { width: number; height: number } | null;
}

/** Reads #INVITE&room=ROOM and ?transports=tcp&video=640x360. */
export function readLink(location: Location): Link {
  const [invite = '', ...rest] = location.hash.replace(/^#/, '').split('&');
  const fields = new URLSearchParams(rest.join('&'));
  const query = new URLSearchParams(location.search);
  const size = /^(\d{2,4})x(\d{2,4})$/.exec(query.get('video') ?? '');
  return {
    invite: decodeURIComponent(invite),
    room: fields.get('room') || query.get('room') || defaultRoom,
    transports: (query.get('transports') ?? '').split(',').filter((t): t is Transport => ['udp', 'tcp', 'tls'].includes(t)),
    video: size ? { width: Number(size[1]), height: Number(size[2]) } : null,
  };
}

/** The link that others may open. */
export function shareURL(link: Link): string {
  const room = link.room === defaultRoom ? '' : `&room=${encodeURIComponent(link.room)}`;
  return `${location.origin}${location.pathname}${location.search}#${encodeURIComponent(link.invite)}${room}`;
}

/** Trades the invite for a token. */
export async function tokenFor(invite: string, name: string): Promise<string> {
  let res: Response;
  try {
    res = await fetch('/demo/token', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ invite, name }),
    });
  } catch (cause) {
    throw new OramaError('unreachable', 'The server cannot be reached.', true, { cause });
  }
  if (res.status >= 500 || res.status === 429) throw new OramaError('unavailable', 'The server is busy. Try again in a moment.', true);
  if (!res.ok) throw new OramaError('invite_refused', 'This invitation is not valid any more. Ask for a new link.');
  return ((await res.json()) as { token: string }).token;
}
