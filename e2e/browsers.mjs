// The remote control of the browsers: reads one JSON command a line, answers one JSON line each.
// Commands run side by side, so a slow one delays no other. It knows nothing of Orama: what a test
// wants to know, it asks the page in JavaScript. Ends when its input ends, with every browser.
import { createInterface } from 'node:readline';
import { readFileSync } from 'node:fs';
import puppeteer from 'puppeteer-core';

const probe = readFileSync(new URL('./probe.js', import.meta.url), 'utf8');

const chromiumFlags = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
  '--disable-background-networking', '--disable-component-update', '--disable-dev-shm-usage',
  // a tab in the background is a participant like any other
  '--disable-background-timer-throttling', '--disable-backgrounding-occluded-windows', '--disable-renderer-backgrounding',
  '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--autoplay-policy=no-user-gesture-required',
];

const firefoxPrefs = {
  'media.navigator.streams.fake': true,
  'media.navigator.permission.disabled': true,
  'media.peerconnection.ice.loopback': true,
  'media.autoplay.default': 0,
  'media.gmp-manager.updateEnabled': false,
  'dom.min_background_timeout_value': 4,
  'dom.timeout.enable_budget_timer_throttling': false,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
  'network.dns.disableIPv6': true,
  'toolkit.telemetry.enabled': false,
  'browser.safebrowsing.malware.enabled': false,
  'browser.safebrowsing.phishing.enabled': false,
  'services.settings.server': 'http://127.0.0.1:1/',
  'app.update.enabled': false,
};

const browsers = new Map();
const pages = new Map();

const commands = {
  async launch({ browser, kind, executable, home, args = [] }) {
    const firefox = kind === 'firefox';
    const b = await puppeteer.launch({
      browser: firefox ? 'firefox' : 'chrome',
      executablePath: executable,
      headless: true,
      userDataDir: firefox ? home : undefined,
      env: { ...process.env, HOME: home },
      args: firefox ? args : [...chromiumFlags, ...args],
      extraPrefsFirefox: firefox ? firefoxPrefs : undefined,
      defaultViewport: { width: 1280, height: 800 },
      protocolTimeout: 120_000,
    });
    browsers.set(browser, b);
    return b.version();
  },
  async open({ browser, page, url, viewport, init }) {
    const p = await browsers.get(browser).newPage();
    pages.set(page, p);
    p.on('console', (m) => log(page, m.type(), m.text()));
    p.on('pageerror', (e) => log(page, 'pageerror', e.message));
    if (viewport) await p.setViewport(viewport);
    await p.evaluateOnNewDocument(probe);
    if (init) await p.evaluateOnNewDocument(readFileSync(new URL(init, import.meta.url), 'utf8'));
    await p.goto(url, { waitUntil: 'domcontentloaded', timeout: 30_000 });
  },
  // eval runs the body of an async function with args in scope and gives back what it returns.
  async eval({ page, body, args = [] }) {
    return get(page).evaluate(
      (body, args) => new (async () => {}).constructor('args', body)(args), body, args);
  },
  async screenshot({ page, path }) { await get(page).screenshot({ path }); },
  async close({ page }) {
    const p = get(page);
    pages.delete(page);
    await p.close();
  },
  async quit({ browser }) {
    const b = browsers.get(browser);
    browsers.delete(browser);
    await b.close();
  },
};

function get(page) {
  const p = pages.get(page);
  if (!p) throw new Error(`no page ${page}`);
  return p;
}

function log(page, kind, text) {
  process.stderr.write(`${page} ${kind}: ${String(text).slice(0, 500)}\n`);
}

async function answer(line) {
  const { id, op, ...rest } = JSON.parse(line);
  let out;
  try {
    out = { id, value: (await commands[op](rest)) ?? null };
  } catch (e) {
    out = { id, error: String(e.message ?? e).slice(0, 2000) };
  }
  process.stdout.write(JSON.stringify(out) + '\n');
}

for await (const line of createInterface({ input: process.stdin })) void answer(line);
await Promise.all([...browsers.values()].map((b) => b.close().catch(() => {})));
process.exit(0);
