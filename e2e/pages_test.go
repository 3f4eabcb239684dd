//go:build e2e

package e2e

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The integration guide's JavaScript, in both browsers, reaches a call.
func TestPlainClient(t *testing.T) {
	c := up(t)
	var all []*page
	for _, who := range []struct{ kind, name string }{{chromium, "ada"}, {firefox, "cleo"}} {
		query := url.Values{"token": {c.token(t, c.Namespace, who.name)}, "room": {"plain"}}
		all = append(all, c.visit(t, who.kind, who.name, "http://localhost:8080/demo/plain.html#"+query.Encode()))
	}
	begun := at(time.Now())
	for _, p := range all {
		met := p.until(20*time.Second, "the other is seen and heard", "__probe.meets(1)")
		t.Logf("%s: the other is seen and heard %s after both pages were open", p.name, ms(met.since(begun)))
	}
}

// visitDemo opens the demo page as the printed URL does, in a room, and joins under a name.
func (c *cluster) visitDemo(t testing.TB, kind, name, room, query string, wishes map[string]any) *page {
	t.Helper()
	u, err := url.Parse(c.DemoURL)
	require.NoError(t, err)
	if query != "" {
		u.Path, u.RawQuery = "/demo/", query
	}
	link := u.String() + "&room=" + room
	p := c.visitWith(t, kind, name, link, wishes)
	p.until(10*time.Second, "one sees oneself", "document.querySelector('[data-testid=preview]')?.videoWidth > 0")
	p.until(10*time.Second, "the devices are listed", "document.querySelector('[data-testid=device-microphone]')?.options.length > 0")
	p.eval(nil, `const name = document.querySelector('[data-testid=name-input]');
		name.value = args[0];
		name.dispatchEvent(new Event('input', { bubbles: true }));
		document.querySelector('[data-testid=join]').click();`, name)
	p.until(10*time.Second, "the call is entered", "!!document.querySelector('[data-testid=call]')")
	return p
}

// What the first user does: opens the printed URL in two tabs, joins, sees and hears, writes, mutes, leaves.
func TestDemo(t *testing.T) {
	c := up(t)
	ada := c.visitDemo(t, chromium, "Ada", "demo-test", "video=320x180", nil)
	cleo := c.visitDemo(t, firefox, "Cleo", "demo-test", "video=320x180", nil)
	for _, p := range []*page{ada, cleo} {
		p.until(20*time.Second, "the other is seen and heard", "__probe.meets(1)")
		p.until(5*time.Second, "two tiles", "document.querySelectorAll('[data-testid=tile]').length === 2")
	}
	ada.until(5*time.Second, "the other's name", "[...document.querySelectorAll('[data-testid=tile-name]')].some((n) => n.textContent.includes('Cleo'))")

	ada.eval(nil, `document.querySelector('[data-testid=chat-toggle]')?.click();
		const text = document.querySelector('[data-testid=chat-input]');
		text.value = 'Hello, Cleo';
		text.dispatchEvent(new Event('input', { bubbles: true }));
		document.querySelector('[data-testid=chat-send]').click();`)
	cleo.until(3*time.Second, "the message", "[...document.querySelectorAll('[data-testid=chat-text]')].some((m) => m.textContent === 'Hello, Cleo')")

	var left moment
	ada.eval(&left, "const now = Date.now(); document.querySelector('[data-testid=leave]').click(); return now")
	ada.until(3*time.Second, "a farewell", "!!document.querySelector('[data-testid=farewell]')")
	gone := cleo.until(3*time.Second, "one tile", "document.querySelectorAll('[data-testid=tile][data-own=false], [data-testid=tile]:not([data-own])').length === 0")
	t.Logf("Cleo saw Ada's tile gone %s after the click", ms(gone.since(left)))
	if took := gone.since(left); took >= time.Second {
		require.Less(t, took, held(t, time.Second, left.time()))
	}
}

// Three people in the demo at its full size. `make screenshot` keeps the picture for the README.
func TestScreenshot(t *testing.T) {
	path := os.Getenv("ORAMA_SCREENSHOT")
	if path == "" {
		path = filepath.Join(t.TempDir(), "call.png")
	}
	c := up(t)
	wishes := map[string]any{"viewport": map[string]any{"width": 1280, "height": 800}, "init": "portrait.js"}
	var people []*page
	for _, name := range []string{"Grace", "Linus", "Ada"} {
		people = append(people, c.visitDemo(t, chromium, name, "daily", "transports=udp&portrait="+name, wishes))
	}
	for _, p := range people {
		p.until(30*time.Second, "the others are seen and heard", "__probe.meets(2)")
	}
	ada := people[2]
	if os.Getenv("ORAMA_SCREENSHOT") != "" { // a busy machine sends fewer pixels
		ada.until(30*time.Second, "the pictures are sharp", "[...document.querySelectorAll('[data-testid=tile-video]')].filter((v) => v.videoWidth >= 640).length >= 3")
	}
	ada.eval(nil, `document.querySelectorAll('[data-testid=tile]:not([data-own]) [data-testid=tile-info]')[0].click()`)
	ada.until(5*time.Second, "the path is shown", "[...document.querySelectorAll('[data-testid=path-rtt]')].some((e) => /\\d/.test(e.textContent))")
	require.NoError(t, ada.d.call("screenshot", map[string]any{"page": ada.name, "path": path}, nil))
	t.Logf("wrote %s", path)
}
