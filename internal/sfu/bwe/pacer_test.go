package bwe

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func drain(p *Pacer[string]) []string {
	var out []string
	for {
		v, _, ok := p.Pop()
		if !ok {
			return out
		}
		out = append(out, v)
	}
}

func TestPacerOrder(t *testing.T) {
	now := origin
	p := NewPacer[string](now, 1_000_000)
	for _, v := range []string{"video 1", "video 2", "video 3"} {
		require.True(t, p.Push(Video, v, 1000))
	}
	require.True(t, p.Push(Retransmission, "again", 1000))
	require.True(t, p.Push(Audio, "audio", 100))
	require.Equal(t, []string{"audio"}, drain(p), "audio needs no budget")
	p.Advance(now.Add(Tick))
	require.Equal(t, []string{"again"}, drain(p))
	var left []string
	for i := range 9 {
		p.Advance(now.Add(time.Duration(i+2) * Tick))
		left = append(left, drain(p)...)
	}
	require.Equal(t, []string{"video 1", "video 2", "video 3"}, left)
	require.Zero(t, p.queues[Video].n)
}

// What waits is bounded in time, and audio is never refused.
func TestPacerIsBounded(t *testing.T) {
	p := NewPacer[string](origin, 800_000) // 100 bytes a millisecond
	n := 0
	for n < 1000 && p.Push(Video, "v", 1000) {
		n++
	}
	require.Equal(t, 41, n)
	require.False(t, p.Push(Retransmission, "r", 1000))
	require.True(t, p.Push(Audio, "a", 100))
	require.InDelta(t, 411*time.Millisecond, p.Wait(), float64(time.Millisecond))
	p.Rate(8_000_000)
	require.True(t, p.Push(Video, "v", 1000), "the path is faster now")
}

func TestPacerProbe(t *testing.T) {
	now := origin
	p := NewPacer[string](now, 800_000)
	p.Probe(Cluster{ID: 7, Rate: 1_600_000, Bytes: 8000})
	require.True(t, p.Push(Video, "v", 1000))
	media, padding, last := 0, 0, now
	for range 40 {
		now = now.Add(Tick)
		p.Advance(now)
		for {
			_, probe, ok := p.Pop()
			if !ok {
				break
			}
			require.Equal(t, 7, probe)
			media++
			last = now
		}
		for {
			n, probe := p.Padding()
			if n == 0 {
				break
			}
			require.Equal(t, 7, probe)
			padding += n
			last = now
		}
	}
	require.Equal(t, 1, media)
	require.InDelta(t, 7000, padding, probeSize)
	require.InDelta(t, 40*time.Millisecond, last.Sub(origin), float64(2*Tick))
	require.True(t, p.Push(Video, "v", 1000))
	p.Advance(now.Add(Tick))
	_, probe, ok := p.Pop()
	require.True(t, ok)
	require.Zero(t, probe, "the cluster is over")
}

// Whatever is pushed: each class leaves in its order, nothing is lost, what leaves keeps to twice the
// rate, and what waits leaves in time.
func TestPacerKeepsThePace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bps := rapid.IntRange(100_000, 5_000_000).Draw(t, "bps")
		now := origin
		p := NewPacer[int](now, bps)
		next, out := 0, [classes]int{-1, -1, -1}
		class := map[int]Class{}
		pushed, sent := 0, 0
		for range 400 {
			now = now.Add(Tick)
			if rapid.IntRange(0, 9).Draw(t, "more") == 0 {
				for range rapid.IntRange(1, 20).Draw(t, "packets") {
					c := Class(1 + next%2)
					if p.Push(c, next, 1000) {
						class[next] = c
						pushed++
					}
					next++
				}
			}
			p.Advance(now)
			burst := 0
			for {
				v, _, ok := p.Pop()
				if !ok {
					break
				}
				if v <= out[class[v]] {
					t.Fatalf("%d after %d", v, out[class[v]])
				}
				out[class[v]] = v
				sent++
				burst += 1000
			}
			if most := 2*float64(bps)/8*maxBurst.Seconds() + 1000; float64(burst) > most {
				t.Fatalf("a burst of %d bytes, more than %.0f", burst, most)
			}
			if p.Wait() > maxWait+time.Duration(float64(8000)/float64(bps)*float64(time.Second)) {
				t.Fatalf("waits for %s", p.Wait())
			}
		}
		for range 200 {
			now = now.Add(Tick)
			p.Advance(now)
			for _, _, ok := p.Pop(); ok; _, _, ok = p.Pop() {
				sent++
			}
		}
		if sent != pushed {
			t.Fatalf("%d of %d left within a second", sent, pushed)
		}
	})
}
