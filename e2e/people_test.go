//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// person is a tab with the page participant.html, in a room.
type person struct {
	*page
	user  string
	began moment // when join() was called
}

// meeting is a room and those in it.
type meeting struct {
	t          testing.TB
	c          *cluster
	namespace  string
	room       string
	transports []string // none: whatever the cluster gives
	only       string   // a pattern for the relays' URLs: the others are not there for who enters
	site       string   // origin of participant.html
	people     []*person
	watched    time.Time // since when gaps are measured
	camera     any       // constraints for those who enter; nil: a small picture
}

func (c *cluster) meeting(t testing.TB, namespace, room string, transports ...string) *meeting {
	t.Helper()
	if c.site != "" {
		return &meeting{t: t, c: c, namespace: namespace, room: room, transports: transports, site: c.site}
	}
	site := httptest.NewServer(http.FileServer(http.Dir(".")))
	t.Cleanup(site.Close)
	return &meeting{t: t, c: c, namespace: namespace, room: room, transports: transports, site: site.URL}
}

// in makes a subtest the one that fails.
func (m *meeting) in(t testing.TB) {
	m.t = t
	for _, p := range m.people {
		p.t = t
	}
}

// enter opens a tab of a browser and joins with camera and microphone. It does not wait for media.
func (m *meeting) enter(kind, user string) *person {
	m.t.Helper()
	token := m.c.token(m.t, m.namespace, user)
	query := url.Values{"sdk": {m.c.Gateways[0] + "/sdk/orama.js"}}
	p := &person{page: m.c.visit(m.t, kind, user, m.site+"/participant.html?"+query.Encode()), user: user}
	p.until(10*time.Second, "the SDK is loaded", "!!window.participant")
	if m.only != "" {
		p.eval(nil, "__probe.confine(args[0])", m.only)
	}
	p.eval(nil, "return participant.look(args[0] ?? undefined)", m.camera)
	options := map[string]any{"room": m.room, "token": token, "name": user}
	if m.transports != nil {
		options["transports"] = m.transports
	}
	p.eval(&p.began, "return participant.enter(args[0], args[1])", m.c.Gateways, options)
	m.people = append(m.people, p)
	return p
}

// allMeet waits until everybody sees and hears everybody else.
func (m *meeting) allMeet(within time.Duration) {
	m.t.Helper()
	n := len(m.people) - 1
	for _, p := range m.people {
		met := p.until(within, fmt.Sprintf("%d others are seen and heard", n), "__probe.meets(args[0])", n)
		m.t.Logf("%s sees and hears %d others %s after join()", p.user, n, ms(met.since(p.began)))
	}
}

// watch begins to measure gaps in everybody's media.
func (m *meeting) watch() {
	m.t.Helper()
	m.watched = time.Now()
	for _, p := range m.people {
		p.eval(nil, "__probe.watch(args[0])", len(m.people)-1)
	}
}

// gap is the longest time in which a person saw no new frame, or no new sound packet, of somebody.
type gap struct {
	Video   float64 `json:"video"` // ms
	Audio   float64 `json:"audio"` // ms
	Lag     float64 `json:"lag"`   // ms since the newest frame of the slowest track
	Watched float64 `json:"watched"`
	Raw     float64 `json:"raw"` // the longest, the page's own standstill included
}

// gaps ends the measurement and holds each to a limit.
func (m *meeting) gaps(limit time.Duration) {
	m.t.Helper()
	for _, p := range m.people {
		var g gap
		p.eval(&g, "return __probe.gaps(true)")
		m.t.Logf("%s: longest gap %.0f ms in video, %.0f ms in sound, over %.1f s (%.0f ms with the page's own standstill)", p.user, g.Video, g.Audio, g.Watched/1000, g.Raw)
		longest := time.Duration(max(g.Video, g.Audio) * float64(time.Millisecond))
		if longest > limit && longest > held(m.t, limit, m.watched) {
			m.t.Errorf("%s: a gap of more than %v; %s", p.user, limit, p.state())
		}
	}
}

// pair is a selected candidate pair, as probe.js tells it.
type pair struct {
	Type          string `json:"type"`
	RelayProtocol string `json:"relayProtocol"`
	Relay         string `json:"relay"` // the relay's address
	SFU           string `json:"sfu"`
	URL           string `json:"url"` // of the relay; not every browser tells
}

// pairs gives the selected pairs of a person: at least one, and every one through a relay.
func (m *meeting) pairs(p *person) []pair {
	m.t.Helper()
	var all []pair
	p.eval(&all, "return __probe.pairs()")
	require.NotEmpty(m.t, all, "%s has no selected candidate pair", p.user)
	for _, x := range all {
		require.Equal(m.t, "relay", x.Type, "%s: a local candidate that is no relay: %+v", p.user, x)
	}
	return all
}

// chat sends a line from each and waits until all others have it.
func (m *meeting) chat() {
	m.t.Helper()
	for _, p := range m.people {
		var sent moment
		line := "hello from " + p.user
		p.eval(&sent, "participant.room.chat(args[0]); return Date.now()", line)
		for _, other := range m.people {
			if other == p {
				continue
			}
			got := other.until(3*time.Second, p.user+"'s chat message",
				"participant.chats.some((c) => c.text === args[0] && c.from === args[1])", line, p.user)
			m.t.Logf("%s → %s: chat within %s", p.user, other.user, ms(got.since(sent)))
		}
	}
}

// without gives the others.
func (m *meeting) without(p *person) []*person {
	var out []*person
	for _, other := range m.people {
		if other != p {
			out = append(out, other)
		}
	}
	return out
}

// gone waits until the others have no trace of somebody who went at the given moment.
func (m *meeting) gone(p *person, went moment) {
	m.t.Helper()
	m.people = m.without(p)
	tracks := 2 * (len(m.people) - 1)
	for _, other := range m.people {
		saw := other.until(5*time.Second, p.user+" is gone",
			"![...participant.room.peers.values()].some((x) => x.name === args[0]) && participant.arriving() === args[1]", p.user, tracks)
		took := saw.since(went)
		m.t.Logf("%s saw %s and its tracks gone within %s", other.user, p.user, ms(took))
		if took < time.Second {
			continue
		}
		require.Less(m.t, took, held(m.t, time.Second, went.time()), "%s is gone from %s's view too late", p.user, other.user)
	}
}
