// The demo: lobby, call, farewell.

import { join, OramaError, type Room } from '../../sdk/src/index.js';
import { Call, sentence } from './call.js';
import { Devices } from './devices.js';
import { h } from './dom.js';
import { readLink, tokenFor, type Link } from './invite.js';
import { brand, type Entry, Lobby } from './lobby.js';
import { restoreTheme, themeButton } from './theme.js';

declare global {
  interface Window {
    /** For tests: the room while in one. */
    __orama: { room: Room | null };
  }
}

window.__orama = { room: null };
const app = document.getElementById('app')!;

function lobby(link: Link): void {
  const devices = new Devices(link.video);
  const page = new Lobby(link, devices, async (entry) => {
    try {
      await enter({ ...link, room: entry.room }, devices, entry);
      page.close();
    } catch (e) {
      page.fail(e instanceof OramaError ? sentence(e) : 'The room could not be joined.');
    }
  });
  app.replaceChildren(page.element);
  document.title = 'Orama';
  page.focus();
}

async function enter(link: Link, devices: Devices, entry: Entry): Promise<void> {
  const publish = (['microphone', 'camera'] as const).flatMap((source) => {
    const track = devices.tracks[source];
    return track ? [{ track, options: { source } }] : [];
  });
  const room = await join(location.origin, {
    room: link.room,
    token: entry.token || (() => tokenFor(link.invite, entry.name)),
    name: entry.name,
    transports: link.transports,
    publish,
  });
  window.__orama.room = room;
  const call = new Call(room, entry.name, link, devices, (error) => {
    call.close();
    window.__orama.room = null;
    farewell(link, error);
  });
  app.replaceChildren(call.element);
}

function farewell(link: Link, error?: OramaError): void {
  const again = h('button', { 'class': 'primary', 'type': 'button', 'data-testid': 'rejoin', 'click': () => lobby(link) }, error ? 'Try again' : 'Join again');
  app.replaceChildren(h('div', { 'class': 'farewell', 'data-testid': 'farewell' },
    h('header', { class: 'bar' }, brand(), h('span', { class: 'spring' }), themeButton()),
    h('main', {}, h('h1', {}, error ? 'The call has ended' : 'You left the call'),
      h('p', { class: 'lead' }, error ? sentence(error) : 'Thank you for coming by.'), again)));
  document.title = 'Orama';
  again.focus();
}

restoreTheme();
lobby(readLink(location));
addEventListener('hashchange', () => {
  if (!window.__orama.room) location.reload();
});
addEventListener('pageshow', (e) => {
  if (e.persisted) location.reload(); // the call was left when the page went away
});
