package sfu

import (
	"fmt"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// Each letter of a voice is a tenth of its level, '.' is silence, and stands for one look at the room.
func TestSpeakersDoNotFlicker(t *testing.T) {
	for name, c := range map[string]struct {
		voices map[orama.PeerID]string
		told   []string // "look:peer=level ..." of every message
	}{
		"silence":                  {map[orama.PeerID]string{"a": "..........."}, nil},
		"a cough":                  {map[orama.PeerID]string{"a": ".9........."}, nil},
		"a word":                   {map[orama.PeerID]string{"a": "5555555555"}, []string{"2:a=.5"}},
		"syllables":                {map[orama.PeerID]string{"a": "5.5.5.5.5."}, []string{"2:a=.5", "7:a=.1"}},
		"coughs far apart":         {map[orama.PeerID]string{"a": "9...9...9...9..."}, nil},
		"a breath":                 {map[orama.PeerID]string{"a": "5555....5555....5555"}, []string{"2:a=.5", "7:a=.1", "16:a=.5"}},
		"it ends":                  {map[orama.PeerID]string{"a": "555................."}, []string{"2:a=.5", "7:a=.1", "10:a=0"}},
		"levels at most each 1 s":  {map[orama.PeerID]string{"a": "5559595959595"}, []string{"2:a=.5", "7:a=.9", "12:a=.5"}},
		"a tenth is not worth it":  {map[orama.PeerID]string{"a": "555666555666555666"}, []string{"2:a=.5"}},
		"another joins in at once": {map[orama.PeerID]string{"a": "55555555", "b": "...99999"}, []string{"2:a=.5", "5:b=.9 a=.5"}},
	} {
		t.Run(name, func(t *testing.T) {
			var s speakers
			var told []string
			for look := range 20 {
				levels := map[orama.PeerID]float64{}
				for id, v := range c.voices {
					levels[id] = 0
					if look < len(v) && v[look] != '.' {
						levels[id] = float64(v[look]-'0') / 10
					}
				}
				if out, _ := s.update(levels, start.Add(time.Duration(look)*speakersEvery)); out != nil {
					told = append(told, wordsOf(look, out))
				}
				if longest := len(c.voices["a"]); look+1 >= longest {
					break
				}
			}
			require.Equal(t, c.told, told)
		})
	}
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func wordsOf(look int, levels []signal.Level) string {
	out := ""
	for _, l := range levels {
		level := "0"
		if l.Level > 0 {
			level = "." + string(rune('0'+int(l.Level*10+.5)))
		}
		out += " " + string(l.PeerID) + "=" + level
	}
	return fmt.Sprintf("%d:%s", look, out[1:])
}

func TestSpeakersInAnyRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s speakers
		shown := map[orama.PeerID]float64{}
		changes := map[orama.PeerID]int{}
		for look := range 100 {
			levels := map[orama.PeerID]float64{}
			for _, id := range []orama.PeerID{"a", "b", "c"} {
				levels[id] = float64(rapid.IntRange(0, 10).Draw(t, "level")) / 10
			}
			now := start.Add(time.Duration(look) * speakersEvery)
			tell, _ := s.update(levels, now)
			for _, l := range tell {
				if (shown[l.PeerID] > 0) != (l.Level > 0) {
					changes[l.PeerID]++
				}
				shown[l.PeerID] = l.Level
			}
			for id, level := range shown {
				require.Equal(t, level > 0, s.voices[id] != nil && s.voices[id].speaks, "what was told is what is")
			}
		}
		for id, n := range changes {
			require.LessOrEqual(t, n, 2+int(100*speakersEvery/(speaksAfter+quietFor))*2, "%s flickers", id)
		}
	})
}

func TestWhoSpeaksComesBeforeWhoSpoke(t *testing.T) {
	var s speakers
	look := 0
	say := func(n int, who ...orama.PeerID) []orama.PeerID {
		for range n {
			levels := map[orama.PeerID]float64{"a": 0, "b": 0, "c": 0}
			for _, id := range who {
				levels[id] = .5
			}
			s.update(levels, start.Add(time.Duration(look)*speakersEvery))
			look++
		}
		return s.recent
	}
	require.Equal(t, []orama.PeerID{"a"}, say(5, "a"))
	require.Equal(t, []orama.PeerID{"a", "b"}, say(5, "a", "b"), "who has the floor keeps it")
	require.Equal(t, []orama.PeerID{"b", "a"}, say(10, "b"))
	require.Equal(t, []orama.PeerID{"b", "a"}, say(10), "silence changes nothing")
	require.Equal(t, []orama.PeerID{"c", "b", "a"}, say(5, "c"))
	s.forget("b")
	require.Equal(t, []orama.PeerID{"c", "a"}, s.recent)
}

func TestWhatIsHeldBack(t *testing.T) {
	cams := []candidate{{id: "1", owner: "a"}, {id: "2", owner: "b"}, {id: "3", owner: "c"}, {id: "4", owner: "d"}}
	with := func(i int, f func(*candidate)) []candidate {
		out := append([]candidate{}, cams...)
		f(&out[i])
		return out
	}
	for name, c := range map[string]struct {
		all    []candidate
		n      int
		recent []orama.PeerID
		held   []orama.TrackID
	}{
		"nothing there":        {nil, 2, nil, nil},
		"enough places":        {cams, 4, nil, nil},
		"none":                 {cams, 0, nil, []orama.TrackID{"1", "2", "3", "4"}},
		"by publication":       {cams, 2, nil, []orama.TrackID{"3", "4"}},
		"by who spoke":         {cams, 2, []orama.PeerID{"d", "b", "a"}, []orama.TrackID{"1", "3"}},
		"a screen comes first": {with(2, func(c *candidate) { c.screen = true }), 1, []orama.PeerID{"d"}, []orama.TrackID{"1", "2", "4"}},
		"a pin before that":    {with(1, func(c *candidate) { c.priority = 1 }), 1, []orama.PeerID{"d"}, []orama.TrackID{"1", "3", "4"}},
		"unwanted comes last":  {with(0, func(c *candidate) { c.priority = -1 }), 3, []orama.PeerID{"a"}, []orama.TrackID{"1"}},
	} {
		require.Equal(t, c.held, heldBack(c.all, c.n, c.recent), name)
	}
}

func TestJudge(t *testing.T) {
	unknown := measurement{upLoss: -1, downLoss: -1}
	with := func(f func(*measurement)) measurement {
		m := measurement{rtt: 20 * time.Millisecond}
		f(&m)
		return m
	}
	for name, c := range map[string]struct {
		m    measurement
		want opinion
	}{
		"all is well":              {with(func(*measurement) {}), opinion{qualityExcellent, ""}},
		"only one leg is known":    {measurement{upLoss: 0, downLoss: -1}, opinion{qualityExcellent, ""}},
		"a little up loss":         {with(func(m *measurement) { m.upLoss = .01 }), opinion{qualityGood, causeUpLoss}},
		"much up loss":             {with(func(m *measurement) { m.upLoss = .05 }), opinion{qualityPoor, causeUpLoss}},
		"a little down loss":       {with(func(m *measurement) { m.downLoss = .04 }), opinion{qualityGood, causeDownLoss}},
		"much down loss":           {with(func(m *measurement) { m.downLoss = .2 }), opinion{qualityPoor, causeDownLoss}},
		"far away":                 {with(func(m *measurement) { m.rtt = 150 * time.Millisecond }), opinion{qualityGood, causeRTT}},
		"very far away":            {with(func(m *measurement) { m.rtt = 400 * time.Millisecond }), opinion{qualityPoor, causeRTT}},
		"too narrow":               {with(func(m *measurement) { m.limited = true }), opinion{qualityPoor, causeLimit}},
		"narrow though unmeasured": {measurement{upLoss: -1, downLoss: -1, limited: true}, opinion{qualityPoor, causeLimit}},
		"the worst is the cause":   {with(func(m *measurement) { m.upLoss, m.downLoss = .02, .1 }), opinion{qualityPoor, causeDownLoss}},
		"loss explains delay":      {with(func(m *measurement) { m.downLoss, m.rtt = .1, time.Second }), opinion{qualityPoor, causeDownLoss}},
		"a short silence":          {with(func(m *measurement) { m.silent = silentFor - 1 }), opinion{qualityExcellent, ""}},
		"silence":                  {measurement{upLoss: -1, downLoss: -1, silent: silentFor}, opinion{qualityLost, causeNoPackets}},
	} {
		got, ok := judge(c.m)
		require.True(t, ok, name)
		require.Equal(t, c.want, got, name)
	}
	_, ok := judge(unknown)
	require.False(t, ok, "nothing is known, nothing is said")
}

func TestQualityIsToldWhenItHasLasted(t *testing.T) {
	kinds := map[byte]opinion{'e': {qualityExcellent, ""}, 'g': {qualityGood, causeRTT}, 'u': {qualityPoor, causeUpLoss},
		'd': {qualityPoor, causeDownLoss}, 'l': {qualityLost, causeNoPackets}}
	for measured, want := range map[string]string{
		"eeee":       "e...",
		"eueueue":    "e......",
		"euue":       "e.u.",
		"eguu":       "e..u",
		"uueeee":     "u...e.",
		"uegege":     "u.....",
		"el":         "el",
		"ellleee":    "el....e",
		"uddd":       "u.d.",
		"lueeee":     "l...e.",
		"eeuueeuuee": "e..u......",
	} {
		var q meter
		got := ""
		for i := range len(measured) {
			if q.update(kinds[measured[i]]) {
				got += measured[i : i+1]
			} else {
				got += "."
			}
		}
		require.Equal(t, want, got, measured)
	}
}

func TestGaps(t *testing.T) {
	for name, c := range map[string]struct {
		seqs               []uint16
		expected, received uint32
	}{
		"in order":         {[]uint16{7, 8, 9}, 3, 3},
		"around the end":   {[]uint16{65534, 65535, 0, 1}, 4, 4},
		"two are missing":  {[]uint16{1, 2, 5}, 5, 3},
		"out of order":     {[]uint16{1, 3, 2, 4}, 4, 4},
		"sent again later": {append([]uint16{1}, seqs(3, 30)...), 29, 28},
		"and here it is":   {append(append([]uint16{1}, seqs(3, 30)...), 2), 29, 28},
		"twice":            {[]uint16{1, 1, 2}, 2, 2},
		"another stream":   {[]uint16{1, 2, 30000, 30001}, 4, 4},
		"before the first": {[]uint16{100, 99}, 1, 2},
	} {
		var g gaps
		for _, seq := range c.seqs {
			g.note(seq)
		}
		expected, received := g.take()
		require.Equal(t, [2]uint32{c.expected, c.received}, [2]uint32{expected, received}, name)
	}
}

func seqs(from, to uint16) (out []uint16) {
	for s := from; s < to; s++ {
		out = append(out, s)
	}
	return out
}

// receiverReport is a compound packet's part as pion hands it out.
func receiverReport(t *testing.T, blocks ...rtcp.ReceptionReport) []byte {
	b, err := (&rtcp.ReceiverReport{SSRC: 1, Reports: blocks}).Marshal()
	require.NoError(t, err)
	return b
}

func TestRoundTripIsReadFromReports(t *testing.T) {
	var r reported
	r.note(9<<32|5<<16, start)
	lsr := uint32(9<<16 | 5)
	require.Equal(t, 120*time.Millisecond, r.roundTrip(lsr, 65536/2, start.Add(620*time.Millisecond)))
	require.Zero(t, r.roundTrip(0, 100, start), "no sender report was heard")
	require.Zero(t, r.roundTrip(lsr+1, 0, start), "not one of ours")
	require.Zero(t, r.roundTrip(lsr, 0, start.Add(time.Minute)), "of another life")
	for n := range uint64(3) {
		r.note(n<<32|77<<16, start)
	}
	require.NotZero(t, r.roundTrip(lsr, 0, start), "the last four are known")
	r.note(1<<40, start)
	require.Zero(t, r.roundTrip(lsr, 0, start))

	u := ladder(start)
	d := newDown(u, newEgress(u.metrics, func() {}))
	d.bound = &binding{writer: &nowhere{}, ssrc: 5, pt: 96}
	d.reported.note(9<<32, start)
	mine := rtcp.ReceptionReport{SSRC: 5, FractionLost: 64, LastSenderReport: 9 << 16}
	d.told(receiverReport(t, rtcp.ReceptionReport{SSRC: 6, FractionLost: 200}), start)
	require.Zero(t, d.heard.lost.Load(), "another section's")
	d.told(receiverReport(t, rtcp.ReceptionReport{SSRC: 6}, mine), start.Add(50*time.Millisecond))
	mine.FractionLost = 0
	both, err := (&rtcp.SenderReport{SSRC: 9, Reports: []rtcp.ReceptionReport{mine}}).Marshal()
	require.NoError(t, err)
	d.told(both, start.Add(70*time.Millisecond))
	require.EqualValues(t, 65, d.heard.lost.Load(), "the worst since the last look")
	require.Equal(t, 70*time.Millisecond, time.Duration(d.heard.delay.Load()), "whoever sends reports in its sender reports")
}
