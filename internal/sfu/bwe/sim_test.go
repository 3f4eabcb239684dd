package bwe

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"orama.network/orama/internal/sfu/allot"
)

// The simulated call: one sender with audio and layers of video, its pacer and allocator, a bottleneck, and a
// receiver that reports. Time is simulated, in steps of a millisecond; the same seed gives the same call.

// path is a bottleneck with what lies before and behind it.
type path struct {
	rate     func(t time.Duration) int // bits a second
	queue    time.Duration             // the bottleneck holds this much
	delay    time.Duration             // one way
	jitter   time.Duration             // of single packets, which may overtake each other
	loss     float64                   // of packets, at random
	deaf     float64                   // of feedback messages
	feedback time.Duration             // between two
	skew     float64                   // of the receiver's clock
	policer  bool                      // no queue: what is over the rate is dropped
	bucket   int                       // bytes that pass at once, however low the rate
}

func limited(bps int) func(time.Duration) int { return func(time.Duration) int { return bps } }

type simPacket struct {
	class Class
	size  int
	made  time.Duration
}

type flight struct {
	simPacket
	seq     uint16
	arrives time.Duration
	lost    bool
}

type sim struct {
	p    path
	rng  *rand.Rand
	now  time.Duration
	est  *Estimator
	pace *Pacer[simPacket]
	all  *allot.Allocator
	// video is what the application has: the layers' bitrates.
	video []int

	seq      uint16
	onWay    []flight // in order of seq
	freeAt   time.Duration
	messages []message
	chosen   int
	noVideo  func(t time.Duration) bool

	audioGap   time.Duration // the longest between two audio arrivals
	audioAt    time.Duration
	audioLost  int
	audioSent  int
	delivered  int // bytes, all
	delay      time.Duration
	refused    int
	onTick     func()
	probeBytes int
}

type message struct {
	at   time.Duration
	acks []Ack
}

var origin = time.Unix(1_700_000_000, 0)

func newSim(p path, seed uint64, video ...int) *sim {
	p.feedback = cmp.Or(p.feedback, 50*time.Millisecond)
	p.delay = cmp.Or(p.delay, 25*time.Millisecond)
	p.queue = cmp.Or(p.queue, 300*time.Millisecond)
	return &sim{
		p: p, rng: rand.New(rand.NewPCG(seed, 1)), est: New(origin), pace: NewPacer[simPacket](origin, Start), all: allot.New(),
		video: video, seq: 65_000, chosen: allot.None,
	}
}

func (s *sim) at() time.Time { return origin.Add(s.now) }

// run goes on until t.
func (s *sim) run(t time.Duration) {
	for ; s.now < t; s.now += time.Millisecond {
		ms := int(s.now / time.Millisecond)
		s.hear()
		if ms%20 == 0 {
			s.push(simPacket{Audio, 140, s.now})
			s.audioSent++
			if c, ok := s.est.Probe(s.at()); ok {
				s.pace.Probe(c)
			}
		}
		if ms%100 == 0 {
			s.est.Tick(s.at())
			s.allocate()
		}
		if ms%33 == 0 {
			s.frame()
		}
		if ms%int(Tick/time.Millisecond) == 0 {
			s.tick()
			if s.onTick != nil {
				s.onTick()
			}
		}
		s.arrive()
	}
}

func (s *sim) push(p simPacket) {
	if !s.pace.Push(p.class, p, p.size) {
		s.refused++
	}
}

func (s *sim) allocate() {
	t := allot.Track{ID: "v", Kind: allot.Camera}
	if s.noVideo == nil || !s.noVideo(s.now) {
		for i, bps := range s.video {
			t.Layers = append(t.Layers, allot.Layer{Spatial: i, Bitrate: bps})
		}
	}
	tracks := []allot.Track{{ID: "a", Layers: []allot.Layer{{Bitrate: 56_000}}}, t}
	s.est.Want(allot.Wanted(tracks))
	s.chosen = s.all.Decide(s.at(), s.est.Target(), tracks)[1].Layer
}

// frame makes a picture of the chosen layer; one in a hundred is four times as large.
func (s *sim) frame() {
	if s.chosen == allot.None {
		return
	}
	size := s.video[s.chosen] / 8 / 30
	size = size*8/10 + s.rng.IntN(size*4/10)
	if s.rng.IntN(100) == 0 {
		size *= 4
	}
	for size > 0 {
		n := min(size, 1100)
		s.push(simPacket{Video, n + 40, s.now})
		size -= n
	}
}

func (s *sim) tick() {
	s.pace.Rate(s.est.Target())
	s.pace.Advance(s.at())
	for {
		p, probe, ok := s.pace.Pop()
		if !ok {
			break
		}
		s.send(p, probe)
	}
	for {
		n, probe := s.pace.Padding()
		if n == 0 {
			return
		}
		s.probeBytes += n
		s.send(simPacket{Retransmission, n, s.now}, probe)
	}
}

func (s *sim) send(p simPacket, probe int) {
	s.est.Sent(s.seq, p.size, s.at(), probe)
	f := flight{simPacket: p, seq: s.seq}
	s.seq++
	rate := float64(s.p.rate(s.now))
	need := time.Duration(float64(p.size*8) / rate * float64(time.Second))
	saved := time.Duration(float64(s.p.bucket*8) / rate * float64(time.Second))
	begin := max(s.freeAt, s.now)
	switch {
	case s.rng.Float64() < s.p.loss, begin-s.now-saved > s.p.queue, s.p.policer && begin-s.now > 20*time.Millisecond:
		f.lost, f.arrives = true, s.now+s.p.delay
	default:
		s.freeAt = begin + need
		f.arrives = max(s.freeAt-saved, s.now) + s.p.delay
		if s.p.policer {
			f.arrives = s.now + s.p.delay
		}
		if s.p.jitter > 0 {
			f.arrives += time.Duration(s.rng.Int64N(int64(s.p.jitter)))
		}
	}
	s.onWay = append(s.onWay, f)
}

// arrive notes what has come, and makes feedback of it when it is time.
func (s *sim) arrive() {
	if s.now%s.p.feedback != 0 {
		return
	}
	m := message{at: s.now + s.p.delay}
	last := -1
	for i, f := range s.onWay {
		if !f.lost && f.arrives <= s.now {
			last = i
		}
	}
	keep := s.onWay[:0:0]
	for i, f := range s.onWay {
		came := !f.lost && f.arrives <= s.now
		switch {
		case i > last:
			keep = append(keep, f)
			continue
		case !came && !f.lost: // overtaken: told of as missing now, and as there later
			keep = append(keep, f)
		}
		m.acks = append(m.acks, Ack{Seq: f.seq, Received: came, Arrival: time.Duration(float64(f.arrives) * (1 + s.p.skew))})
		s.note(f, came)
	}
	s.onWay = keep
	if len(m.acks) > 0 && s.rng.Float64() >= s.p.deaf {
		s.messages = append(s.messages, m)
	}
}

func (s *sim) note(f flight, came bool) {
	if came {
		s.delivered += f.size
	}
	if f.class != Audio {
		return
	}
	if !came {
		s.audioLost++
		return
	}
	if s.audioAt > 0 {
		s.audioGap = max(s.audioGap, f.arrives-s.audioAt)
	}
	s.audioAt = f.arrives
	s.delay = f.arrives - f.made
}

func (s *sim) hear() {
	for len(s.messages) > 0 && s.messages[0].at <= s.now {
		m := s.messages[0]
		s.messages = s.messages[1:]
		slices.SortStableFunc(m.acks, func(a, b Ack) int { return int(int16(a.Seq - b.Seq)) })
		s.est.Feedback(s.at(), m.acks)
	}
}
