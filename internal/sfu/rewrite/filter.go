package rewrite

// Filter chooses among the spatial and temporal layers inside one source: by its payload's descriptor or, where there is one, by the
// dependency descriptor. The zero value passes the lowest of each; Want says more.
type Filter struct {
	level                     // passed now
	wantSpatial, wantTemporal uint8
	turns                     [16]turn // the last ones, newest first
	turned                    int      // how many there are
	deps                      follower
}

// level is the highest layers that pass.
type level struct{ spatial, temporal uint8 }

// turn is where a level began.
type turn struct {
	level
	seq uint16
}

// turnsKept is how many packets back a straggler is told by the level that its picture had. Later ones there are none: see window.
const turnsKept = 2 * window

// Want sets the highest layers that are to pass, from the next place on where a decoder bears the change.
func (f *Filter) Want(spatial, temporal uint8) { f.wantSpatial, f.wantTemporal = spatial, temporal }

// Reset makes the filter pass what is wanted at once: a source begins.
func (f *Filter) Reset() {
	f.level, f.turned = level{f.wantSpatial, f.wantTemporal}, 0
	f.deps = follower{} // another source numbers its frames otherwise
}

// NeedsKey reports whether what is wanted waits for a keyframe.
func (f *Filter) NeedsKey() bool {
	if f.deps.on {
		return f.deps.stuck
	}
	return f.wantSpatial > f.spatial
}

// Pass reports whether a packet is to be sent, and whether it ends its picture as sent: the RTP marker.
func (f *Filter) Pass(i *Info, marker bool) (pass, end bool) {
	if i.Deps != nil {
		return f.deps.pass(i.Deps, f.wantSpatial, f.wantTemporal, marker)
	}
	if i.Late {
		return f.straggle(i, marker)
	}
	if f.turned > 0 && i.Seq-f.turns[0].seq > turnsKept {
		f.turned = 1
		f.turns[0].seq = i.Seq - turnsKept
	}
	before := f.level
	if i.Start && i.Spatial == 0 { // a picture begins
		switch {
		case i.Key:
			f.spatial, f.temporal = f.wantSpatial, f.wantTemporal
		case i.Up && i.Temporal <= f.temporal:
			f.temporal = f.wantTemporal
		case i.Sync && i.Temporal == f.temporal+1 && i.Temporal <= f.wantTemporal:
			// One layer at a time: what follows in a layer between may need more of it than was sent.
			f.temporal = i.Temporal
		}
		f.spatial, f.temporal = min(f.spatial, f.wantSpatial), min(f.temporal, f.wantTemporal)
	}
	if f.turned == 0 || f.level != before {
		copy(f.turns[1:], f.turns[:])
		f.turns[0], f.turned = turn{f.level, i.Seq}, min(f.turned+1, len(f.turns))
	}
	return f.level.pass(i, marker)
}

func (l level) pass(i *Info, marker bool) (pass, end bool) {
	if i.Spatial > l.spatial || i.Temporal > l.temporal {
		return false, false
	}
	return true, marker || i.End && i.Spatial == l.spatial
}

// straggle decides a packet that comes late as its picture was. From before what is remembered only the base passes, as it always does.
func (f *Filter) straggle(i *Info, marker bool) (pass, end bool) {
	for _, t := range f.turns[:f.turned] {
		if int16(i.Seq-t.seq) >= 0 {
			return t.pass(i, marker)
		}
	}
	return level{}.pass(i, marker)
}

// Mask gives the active decode targets to tell a subscriber of with a packet that passed: those of the publisher's that it can decode. 0:
// there is nothing to tell. Once it was told of fewer than all it is told with every packet, until a structure says that all of them are
// active: so no loss leaves it with the wrong set (AV1 RTP section A.4).
func (f *Filter) Mask(d *Descriptor) uint32 { return f.deps.mask(d) }

// history is how many frames back the fate of a frame is known; a power of two.
const history = 256

// follower follows one decode target through a source's frames. The zero value follows none.
type follower struct {
	on         bool // a structure was seen
	generation uint32
	now        uint8 // the target that is sent
	stuck      bool  // another is wanted, and only a keyframe leads to it

	turns  [16]entry // the last ones, newest first
	turned int       // how many there are

	newest      int64 // frame
	any         bool  // newest is valid
	lastSpatial uint8 // of the newest frame
	told        bool  // a mask was sent that is not all
	fates       [history]fate
}

// entry is where a target of a structure began.
type entry struct {
	since      int64
	generation uint32
	target     uint8
}

// fate is what became of a frame: its number and two bits.
type fate int64

const (
	fateSent fate = 1
	fateLeft fate = 2
)

func (f *follower) fate(seq int64) fate {
	if x := f.fates[uint64(seq)%history]; x>>2 == fate(seq) {
		return x & 3
	}
	return 0
}

func (f *follower) decide(seq int64, sent bool) {
	x := fateLeft
	if sent {
		x = fateSent
	}
	f.fates[uint64(seq)%history] = fate(seq)<<2 | x
}

// pass decides a frame with the first packet of it that comes, and then its other packets alike.
func (f *follower) pass(d *Descriptor, spatial, temporal uint8, marker bool) (pass, end bool) {
	was := f.fate(d.Seq)
	if !d.Known {
		// The structure is lost, or late: a sequence has begun, and nothing of it is left out until it is known what is for whom.
		if was == 0 {
			f.decide(d.Seq, true)
		}
		if !f.any || d.Seq > f.newest {
			f.newest, f.any = d.Seq, true
		}
		return was != fateLeft, marker
	}
	if !f.on || int32(d.of.generation-f.generation) > 0 {
		to := d.of.choose(d.active, spatial, temporal)
		if f.any && d.Seq < f.newest { // the structure is late, and all that needed it was passed: as for the best target
			to = d.of.choose(d.active, maxSpatial, maxTemporal)
		}
		f.on, f.generation, f.stuck, f.lastSpatial = true, d.of.generation, false, maxSpatial
		f.enter(d, to)
	}
	if newest := !f.any || d.Seq > f.newest; newest {
		if d.Start {
			f.turn(d, spatial, temporal)
		}
		f.newest, f.any, f.lastSpatial = d.Seq, true, d.def.spatial
	}
	target, known := f.at(d)
	if was == 0 {
		sent := known && d.def.dti(target) != dtiAbsent && !f.orphan(d)
		f.decide(d.Seq, sent)
		was = f.fate(d.Seq)
	}
	if was != fateSent {
		return false, false
	}
	return true, marker || d.End && known && d.def.spatial == d.of.target[target].spatial
}

// turn goes over to the target that is wanted, if a decoder bears it with the frame that begins.
func (f *follower) turn(d *Descriptor, spatial, temporal uint8) {
	want := d.of.choose(d.active, spatial, temporal)
	if f.stuck = false; want == f.now {
		return
	}
	now, to := &d.of.target[f.now], &d.of.target[want]
	// What both have in common, to go down in one way before going up in the other.
	meet := d.of.choose(d.active, min(now.spatial, to.spatial), min(now.temporal, to.temporal))
	// A picture begins, and not a layer inside one; nor is what comes before in the picture late, whose end the marker would then be at too.
	begins := d.def.spatial <= f.lastSpatial && (d.def.spatial == 0 || d.Seq == f.newest+1)
	// Inside a picture the end must be ahead still, as it was before, or the marker would be there twice or never.
	ahead := begins || d.def.spatial <= now.spatial && d.def.spatial <= to.spatial
	switch {
	case begins && now.within>>want&1 == 1, ahead && d.def.dti(want) == dtiSwitch && f.decodable(d):
		f.enter(d, want)
	case meet != f.now && now.within>>meet&1 == 1:
		if begins {
			f.enter(d, meet)
		}
	default:
		f.stuck = now.within>>want&1 == 0 && now.spatial != to.spatial
	}
}

func (f *follower) enter(d *Descriptor, target uint8) {
	copy(f.turns[1:], f.turns[:])
	f.turns[0] = entry{d.Seq, d.of.generation, target}
	f.now, f.turned = target, min(f.turned+1, len(f.turns))
}

// at gives the target that was sent at a frame, which may be a late one; false: that is not known any more.
func (f *follower) at(d *Descriptor) (target uint8, known bool) {
	for _, t := range f.turns[:f.turned] {
		if d.Seq >= t.since {
			return t.target, t.generation == d.of.generation
		}
	}
	return 0, false
}

// decodable reports whether all that a frame is predicted from was sent.
func (f *follower) decodable(d *Descriptor) bool {
	for n := range d.def.refCount {
		if f.fate(d.Seq-int64(d.def.refs[n])) != fateSent {
			return false
		}
	}
	return true
}

// orphan reports whether a frame is predicted from one that was left out. The indications of a sound publisher do not let that happen.
func (f *follower) orphan(d *Descriptor) bool {
	for n := range d.def.refCount {
		if f.fate(d.Seq-int64(d.def.refs[n])) == fateLeft {
			f.stuck = true
			return true
		}
	}
	return false
}

func (f *follower) mask(d *Descriptor) uint32 {
	if !d.Known || !f.on || d.of.generation != f.generation {
		return 0
	}
	mask := d.active & d.of.target[f.now].within
	if mask == 0 {
		mask = 1 << f.now // nobody is told of nothing
	}
	if mask == d.of.all() && (!f.told || d.structured) {
		f.told = false
		return 0
	}
	f.told = true
	return mask
}
