package bwe

import "time"

// Cluster is a burst that shows what the path carries: Bytes sent at Rate, in packets that are
// noted as Sent with its ID.
type Cluster struct {
	ID    int
	Rate  int // bits a second, media included
	Bytes int
}

const (
	probeTime    = 40 * time.Millisecond
	probePackets = 6    // at least
	probeSize    = 1100 // bytes, of padding packets
	probeFirst   = time.Second
	probeMost    = 3 * time.Second // between two that show nothing new
	probeFactor  = 2

	// A path that lets bursts pass and then drops (a policer) makes short clusters lie.
	longTime   = 700 * time.Millisecond
	longFactor = 1.5
	longFor    = time.Minute // after a cluster was found to have lied
	liedWithin = 10 * time.Second

	// A token bucket lets some kilobytes pass at once however slow it is, and the path seems wide to a short cluster. Once one was believed wrongly
	// they are larger, and it is their later half that counts.
	waryPackets = 12
)

type result struct {
	rate   float64 // what the path carried
	passed bool    // it carried all of the cluster
}

type prober struct {
	id       int
	cluster  Cluster // in flight if id != 0 && open
	open     bool
	started  time.Time
	next     time.Time
	interval time.Duration
	raised   time.Time // when the estimate last rose for a cluster
	long     time.Time // until then clusters are long
	wary     time.Time // until then they are judged by their later half

	missing          bool      // feedback of a part was lost
	first, last      time.Time // sent
	out              int       // packets sent
	outBytes         int
	firstSize        int
	acks, lost       int
	gotBytes         int
	arrFirst, arrEnd time.Duration
	arrFirstSize     int
	half             int           // bytes of the earlier half, with the packet in the middle; 0: it is not over
	arrHalf          time.Duration // arrival of that
}

func (p *prober) start(now time.Time, target, desired float64) (Cluster, bool) {
	if p.open || now.Before(p.next) {
		return Cluster{}, false
	}
	id, interval := p.id+1, max(p.interval, probeFirst)
	factor, span := float64(probeFactor), probeTime
	if now.Before(p.long) {
		factor, span = longFactor, longTime
	}
	r := min(factor*target, max(desired*1.2, target*1.2), Max)
	packets := probePackets
	if now.Before(p.wary) {
		packets, span = waryPackets, max(span, 5*probeTime/4)
	}
	c := Cluster{ID: id, Rate: int(r), Bytes: max(int(r/8*span.Seconds()), packets*probeSize)}
	*p = prober{
		id: id, cluster: c, open: true, started: now, next: now.Add(interval), interval: interval, raised: p.raised, long: p.long, wary: p.wary,
	}
	return c, true
}

func (p *prober) sent(id, size int, at time.Time) {
	if !p.open || id != p.id {
		return
	}
	if p.out == 0 {
		p.first, p.firstSize = at, size
	}
	p.last = at
	p.out++
	p.outBytes += size
}

func (p *prober) acked(id, size int, a Ack) {
	if !p.open || id != p.id {
		return
	}
	if !a.Received {
		p.lost++
		return
	}
	if p.acks == 0 || a.Arrival < p.arrFirst {
		p.arrFirst, p.arrFirstSize = a.Arrival, size
	}
	p.arrEnd = max(p.arrEnd, a.Arrival)
	p.acks++
	if p.gotBytes += size; p.half == 0 && p.gotBytes >= p.cluster.Bytes/2 {
		p.half, p.arrHalf = p.gotBytes, a.Arrival
	}
}

// result ends a cluster that is complete, or late. loss is what is lost of everything, and no fault of the cluster's.
func (p *prober) result(now time.Time, rtt time.Duration, loss float64) (result, bool) {
	if !p.open {
		return result{}, false
	}
	complete := p.outBytes >= p.cluster.Bytes && p.acks+p.lost >= p.out
	span := time.Duration(float64(p.cluster.Bytes*8) / float64(p.cluster.Rate) * float64(time.Second))
	if !complete && now.Sub(p.started) < span+2*rtt+400*time.Millisecond {
		return result{}, false
	}
	p.open = false
	if p.missing {
		p.next = now.Add(probeFirst / 4) // it said nothing
		return result{}, false
	}
	if p.acks < probePackets-2 || float64(p.acks) < 0.7*float64(p.out) {
		p.failed(now)
		return result{}, true
	}
	out := float64(p.outBytes-p.firstSize) * 8 / max(p.last.Sub(p.first).Seconds(), 1e-3)
	in := float64(p.gotBytes-p.arrFirstSize) * 8 / max((p.arrEnd-p.arrFirst).Seconds(), 1e-3)
	if now.Before(p.wary) && p.half > 0 {
		in = min(in, float64(p.gotBytes-p.half)*8/max((p.arrEnd-p.arrHalf).Seconds(), 1e-3))
	}
	out, in = min(out, float64(p.cluster.Rate)*1.1), in/(1-min(loss, 0.3))
	r := result{rate: min(in, out), passed: in > 0.9*out}
	if r.passed {
		p.interval, p.next = probeFirst, now // there may be more yet
	} else {
		p.failed(now)
	}
	return r, true
}

// unknown notes that nothing will be heard of a packet.
func (p *prober) unknown(id int) {
	if p.open && id == p.id {
		p.missing = true
		p.lost++
	}
}

// contradicted notes that packets are lost although a cluster had passed.
func (p *prober) contradicted(now time.Time) {
	if now.Sub(p.raised) < liedWithin {
		p.long = now.Add(longFor)
	}
}

// doubt has the next cluster, which may come at once, judged by its later half.
func (p *prober) doubt(now time.Time) { p.wary, p.next = now.Add(longFor), now }

// fell notes that the estimate falls by much: what a cluster has raised it to of late was not there.
func (p *prober) fell(now time.Time) {
	if now.Sub(p.raised) < liedWithin {
		p.wary = now.Add(longFor)
	}
}

// failed makes the next probe wait longer. Who has become wary stays so while probes fail.
func (p *prober) failed(now time.Time) {
	if now.Before(p.wary) {
		p.wary = now.Add(longFor)
	}
	p.interval = min(max(p.interval, probeFirst)*3/2, probeMost)
	p.next = now.Add(p.interval)
}
