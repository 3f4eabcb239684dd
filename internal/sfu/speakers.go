package sfu

import (
	"cmp"
	"math"
	"slices"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// quietest is the level, in -dBov (RFC 6464), at and below which somebody counts as silent. A
// quiet room in front of a microphone gives 50 to 70.
const quietest = 50

// loudness maps an audio level of RFC 6464 (0 is the loudest, 127 digital silence) to 0 to 1 in
// steps of a tenth, so that noise does not make a new level.
func loudness(dBov uint8) float64 {
	if dBov >= quietest {
		return 0
	}
	return math.Round(float64(quietest-dBov)*10/quietest) / 10
}

// speakers remembers what a room was last told. The zero value has told nothing.
type speakers struct {
	told map[orama.PeerID]float64
}

// update takes the present levels and gives what to tell the room, or nil when nothing changed.
// Those who fell silent are named once more, with level 0.
func (s *speakers) update(levels map[orama.PeerID]float64) []signal.Level {
	var out []signal.Level
	changed := false
	for id, level := range levels {
		if level > 0 {
			out = append(out, signal.Level{PeerID: id, Level: level})
		}
		changed = changed || s.told[id] != level
	}
	for id := range s.told {
		if levels[id] == 0 {
			out = append(out, signal.Level{PeerID: id})
			changed = true
		}
	}
	if !changed {
		return nil
	}
	s.told = make(map[orama.PeerID]float64, len(levels))
	for id, level := range levels {
		if level > 0 {
			s.told[id] = level
		}
	}
	slices.SortFunc(out, func(a, b signal.Level) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(a.PeerID, b.PeerID))
	})
	return out
}
