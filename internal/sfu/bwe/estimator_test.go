package bwe

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const (
	high = 3_000_000
	low  = 500_000
)

var simulcast = []int{150_000, 400_000, 1_200_000, 2_800_000}

// stepped is a limit that goes from high to low after 15 s and back after 30.
func stepped(t time.Duration) int {
	if t >= 15*time.Second && t < 30*time.Second {
		return low
	}
	return high
}

func near(estimate, limit int) bool {
	return float64(estimate) > 0.8*float64(limit) && float64(estimate) < 1.2*float64(limit)
}

// The bar: within 20 % of the limit 3 s after a step down and 8 s after one up, and no gap in the audio.
func TestFollowsALimit(t *testing.T) {
	for name, c := range map[string]struct {
		p path
		// astray is the part of the time in which the estimate may be elsewhere, of all seeds.
		astray float64
	}{
		"plain":            {path{}, 0},
		"slow reports":     {path{feedback: 100 * time.Millisecond}, 0},
		"far":              {path{delay: 100 * time.Millisecond}, 0},
		"a long queue":     {path{queue: 1500 * time.Millisecond}, 0},
		"a short queue":    {path{queue: 50 * time.Millisecond}, 0.02},
		"another clock":    {path{skew: 0.0002}, 0},
		"1 % loss":         {path{loss: 0.01}, 0.01},
		"5 % loss":         {path{loss: 0.05}, 0.03},
		"10 % loss":        {path{loss: 0.1}, 0.05},
		"a fifth unheard":  {path{deaf: 0.2}, 0.03},
		"jitter":           {path{jitter: 6 * time.Millisecond}, 0.03},
		"jitter and loss":  {path{jitter: 6 * time.Millisecond, loss: 0.02, deaf: 0.05}, 0.05},
		"much overtaking":  {path{jitter: 15 * time.Millisecond}, 0.3},
		"drops, no queue":  {path{policer: true}, 0.5},
		"a token bucket":   {path{bucket: 3000, queue: 150 * time.Millisecond}, 0.02},
		"bucket, jitter":   {path{bucket: 3000, queue: 150 * time.Millisecond, jitter: 5 * time.Millisecond}, 0.07},
		"far, and 5 %lost": {path{delay: 100 * time.Millisecond, loss: 0.05}, 0.1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.p.rate = stepped
			looks, astray := 0, 0
			for seed := range uint64(5) {
				s := newSim(c.p, seed, simulcast...)
				for s.now < 45*time.Second {
					s.run(s.now + 100*time.Millisecond)
					settling := s.now < 8*time.Second || s.now > 15*time.Second && s.now < 18*time.Second ||
						s.now > 30*time.Second && s.now < 38*time.Second
					if settling {
						continue
					}
					looks++
					if !near(s.est.Target(), stepped(s.now-100*time.Millisecond)) {
						astray++
					}
				}
				require.Less(t, s.audioGap, 400*time.Millisecond, "audio stopped, seed %d", seed)
				require.Less(t, s.delay, c.p.delay+150*time.Millisecond, "a queue stayed, seed %d", seed)
				if !c.p.policer { // whose path only long clusters show
					require.Less(t, float64(s.probeBytes), 0.12*float64(s.delivered), "too much padding, seed %d", seed)
				}
				if c.p.loss == 0 && !c.p.policer && c.p.jitter == 0 {
					require.Less(t, float64(s.audioLost), 0.03*float64(s.audioSent), "audio was lost, seed %d", seed)
				}
			}
			require.LessOrEqual(t, float64(astray), c.astray*float64(looks), "of %d looks", looks)
		})
	}
}

func TestNarrowFromTheStart(t *testing.T) {
	for _, limit := range []int{120_000, 300_000, 1_000_000} {
		for seed := range uint64(5) {
			s := newSim(path{rate: limited(limit)}, seed, simulcast...)
			s.run(5 * time.Second)
			s.audioGap, s.audioLost, s.audioSent = 0, 0, 0
			for range 25 {
				s.run(s.now + time.Second)
				require.Less(t, s.est.Target(), limit*12/10)
				require.True(t, limit < 200_000 || near(s.est.Target(), limit), "%d of %d after %s, seed %d", s.est.Target(), limit, s.now, seed)
			}
			require.Less(t, s.audioGap, 300*time.Millisecond, "%d, seed %d", limit, seed)
			require.Less(t, float64(s.audioLost), 0.02*float64(s.audioSent), "%d, seed %d", limit, seed)
		}
	}
}

// A token bucket lets what a short probe sends pass at once. It deceives once, and not again and again.
func TestABucketDeceivesOnce(t *testing.T) {
	for _, limit := range []int{300_000, 500_000} {
		looks, astray := 0, 0
		for seed := range uint64(5) {
			s := newSim(path{rate: limited(limit), bucket: 3000, queue: 150 * time.Millisecond}, seed, 150_000, 450_000, 1_200_000)
			s.run(20 * time.Second)
			s.audioGap, s.audioLost, s.audioSent = 0, 0, 0
			for range 600 {
				s.run(s.now + 100*time.Millisecond)
				looks++
				if s.est.Target() > limit*12/10 {
					astray++
				}
			}
			require.Less(t, s.audioGap, 250*time.Millisecond, "%d, seed %d", limit, seed)
			require.Less(t, float64(s.audioLost), 0.01*float64(s.audioSent), "%d, seed %d", limit, seed)
		}
		require.Less(t, float64(astray), 0.02*float64(looks), "%d: %d of %d looks", limit, astray, looks)
	}
}

func TestRandomLossIsNoCongestion(t *testing.T) {
	for _, loss := range []float64{0.01, 0.05, 0.1} {
		for seed := range uint64(5) {
			s := newSim(path{rate: limited(10_000_000), loss: loss}, seed, simulcast...)
			s.run(10 * time.Second)
			for range 30 {
				s.run(s.now + time.Second)
				require.Greater(t, s.est.Target(), 1_500_000, "%.0f %% lost, after %s, seed %d", 100*loss, s.now, seed)
			}
		}
	}
}

// Audio alone tells nothing of the path, and must not hold the estimate down when there is video again.
func TestApplicationLimited(t *testing.T) {
	for seed := range uint64(5) {
		s := newSim(path{rate: limited(5_000_000)}, seed, simulcast...)
		s.noVideo = func(t time.Duration) bool { return t < 20*time.Second }
		s.run(20 * time.Second)
		require.Zero(t, s.probeBytes, "nothing was to be gained")
		require.LessOrEqual(t, s.est.Target(), 2*Start)
		s.run(24 * time.Second)
		require.Equal(t, 3, s.chosen, "seed %d: %d", seed, s.est.Target())
	}
}

func TestNoFeedbackAtAll(t *testing.T) {
	s := newSim(path{rate: limited(high)}, 1, simulcast...)
	s.run(5 * time.Second)
	before := s.est.Target()
	s.p.deaf = 1
	s.run(8 * time.Second)
	require.Less(t, s.est.Target(), before*2/3)
	s.run(40 * time.Second)
	require.Equal(t, 150_000, s.est.Target())
	s.p.deaf = 0
	s.run(45 * time.Second)
	require.Greater(t, s.est.Target(), high*6/10)
}

// The way becomes longer for good, as when a call moves to another relay: that is no queue.
func TestALongerWay(t *testing.T) {
	s := newSim(path{rate: limited(high)}, 1, simulcast...)
	s.run(10 * time.Second)
	s.p.delay += 120 * time.Millisecond
	s.run(18 * time.Second)
	for range 10 {
		s.run(s.now + time.Second)
		require.True(t, near(s.est.Target(), high), "%d after %s", s.est.Target(), s.now)
	}
}

func TestSameSeedSameCall(t *testing.T) {
	a, b := newSim(path{rate: stepped, loss: 0.05}, 7, simulcast...), newSim(path{rate: stepped, loss: 0.05}, 7, simulcast...)
	for range 40 {
		a.run(a.now + time.Second)
		b.run(b.now + time.Second)
		require.Equal(t, a.est.Target(), b.est.Target())
	}
}

// A receiver may report what it likes.
func TestWithinBoundsWhateverIsReported(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := origin
		e := New(now)
		e.Want(rapid.IntRange(0, 1<<40).Draw(t, "want"))
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		seq, probe := uint16(rng.IntN(1<<16)), 0
		for range 300 {
			now = now.Add(time.Duration(rng.IntN(200)) * time.Millisecond)
			if c, ok := e.Probe(now); ok {
				probe = c.ID
				if c.Rate > 2*Max || c.Bytes > c.Rate {
					t.Fatalf("%+v", c)
				}
			}
			for range rng.IntN(20) {
				e.Sent(seq, rng.IntN(1500), now, probe*rng.IntN(2))
				seq++
			}
			var acks []Ack
			for range rng.IntN(30) {
				acks = append(acks, Ack{Seq: seq - uint16(rng.IntN(40)), Received: rng.IntN(4) > 0, Arrival: time.Duration(rng.Int64() - rng.Int64())})
			}
			e.Feedback(now, acks)
			e.Tick(now)
			if e.Target() < Min || e.Target() > Max || e.Queue() < 0 || e.RTT() <= 0 || !(e.Loss() >= 0 && e.Loss() <= 1) {
				t.Fatalf("target %d, queue %s, rtt %s, loss %f", e.Target(), e.Queue(), e.RTT(), e.Loss())
			}
		}
	})
}

func TestAllocatesNothing(t *testing.T) {
	e, now, seq := New(origin), origin, uint16(0)
	acks := make([]Ack, 0, 32)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		acks = acks[:0]
		for range 20 {
			now = now.Add(time.Millisecond)
			e.Sent(seq, 1000, now, 0)
			acks = append(acks, Ack{Seq: seq, Received: true, Arrival: now.Sub(origin)})
			seq++
		}
		e.Feedback(now, acks)
	}))
}
