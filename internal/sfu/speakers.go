package sfu

import (
	"cmp"
	"math"
	"slices"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

const (
	// quietest is the level, in -dBov (RFC 6464), at and below which somebody counts as silent. A
	// quiet room in front of a microphone gives 50 to 70.
	quietest = 50
	// speaksAfter is how long somebody is loud before he speaks: longer than a cough or a key.
	speaksAfter = 300 * time.Millisecond
	// quietFor is the silence that ends it: longer than a pause for breath.
	quietFor = 1500 * time.Millisecond
	// gapAtMost is the silence that may lie within speaksAfter, as between syllables.
	gapAtMost = 400 * time.Millisecond
	// levelsEvery is the time between two messages in which levels alone have changed.
	levelsEvery = time.Second
	// levelStep is the change of a level that is worth telling.
	levelStep = 0.2
	// breath is the level of somebody who speaks and is quiet for a moment.
	breath = 0.1
	// maxSpeakers bounds one message: more voices at once are noise.
	maxSpeakers = 16
	// maxRecent is how many are remembered as having spoken lately: as many videos as anybody can ask for.
	maxRecent = signal.MaxLastN
)

// loudness maps an audio level of RFC 6464 (0 is the loudest, 127 digital silence) to 0 to 1 in
// steps of a tenth, so that noise does not make a new level.
func loudness(dBov uint8) float64 {
	if dBov >= quietest {
		return 0
	}
	return math.Round(float64(quietest-dBov)*10/quietest) / 10
}

// voice is what is known of one who was loud lately.
type voice struct {
	since, last time.Time // of the loudness: since when without a gap, and when last
	level       float64
	speaks      bool
}

// speakers decides who speaks in a room, and remembers what the room was last told. It is pure; the zero value knows nobody.
type speakers struct {
	voices map[orama.PeerID]*voice
	told   map[orama.PeerID]float64
	at     time.Time      // when it was told
	recent []orama.PeerID // who speaks, those who began first in front, and then who spoke, the last in front
}

// update takes the present levels and gives what to tell the room, or nil when there is nothing new. Those who
// have ceased to speak are named once more, with level 0. turned says
// that recent has another order.
func (s *speakers) update(levels map[orama.PeerID]float64, now time.Time) (tell []signal.Level, turned bool) {
	turned = s.hear(levels, now)
	for id, v := range s.voices {
		if v.speaks {
			tell = append(tell, signal.Level{PeerID: id, Level: max(v.level, breath)})
		}
	}
	slices.SortFunc(tell, func(a, b signal.Level) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(a.PeerID, b.PeerID))
	})
	tell = tell[:min(len(tell), maxSpeakers)]
	speaks := make(map[orama.PeerID]float64, len(tell))
	others, louder := false, false
	for _, l := range tell {
		speaks[l.PeerID] = l.Level
		was, known := s.told[l.PeerID]
		others = others || !known
		louder = louder || math.Abs(was-l.Level) >= levelStep-1e-9
	}
	for id := range s.told {
		if _, still := speaks[id]; !still {
			tell = append(tell, signal.Level{PeerID: id})
			others = true
		}
	}
	if !others && !(louder && now.Sub(s.at) >= levelsEvery) {
		return nil, turned
	}
	s.told, s.at = speaks, now
	return tell, turned
}

// hear moves everybody on, and reports whether the order of those who spoke lately is another.
func (s *speakers) hear(levels map[orama.PeerID]float64, now time.Time) (turned bool) {
	if s.voices == nil {
		s.voices = map[orama.PeerID]*voice{}
	}
	for id, level := range levels {
		v := s.voices[id]
		switch {
		case level == 0:
			if v != nil {
				v.level = 0
			}
			continue
		case v == nil:
			v = &voice{since: now}
			s.voices[id] = v
		case !v.speaks && now.Sub(v.last) > gapAtMost:
			v.since = now
		}
		v.last, v.level = now, level
		if !v.speaks && now.Sub(v.since) >= speaksAfter {
			v.speaks = true
			turned = s.place(id) || turned
		}
	}
	for id, v := range s.voices {
		if _, here := levels[id]; !here || now.Sub(v.last) >= quietFor {
			delete(s.voices, id)
			turned = v.speaks && s.place(id) || turned
		}
	}
	return turned
}

// place puts id behind those who speak and before those who spoke, and reports whether that is another place.
func (s *speakers) place(id orama.PeerID) bool {
	before := slices.Index(s.recent, id)
	s.recent = slices.DeleteFunc(s.recent, func(o orama.PeerID) bool { return o == id })
	at := 0
	for at < len(s.recent) && s.voices[s.recent[at]] != nil && s.voices[s.recent[at]].speaks {
		at++
	}
	s.recent = slices.Insert(s.recent, at, id)
	s.recent = s.recent[:min(len(s.recent), maxRecent)]
	return at != before
}

// forget drops somebody who has left.
func (s *speakers) forget(id orama.PeerID) {
	delete(s.voices, id)
	s.recent = slices.DeleteFunc(s.recent, func(o orama.PeerID) bool { return o == id })
}
