package rewrite

// The dependency descriptor is a header extension that says of each packet which frame it belongs to, what the frame is predicted from
// and for whom it is (AV1 RTP, appendix A). What repeats is in templates, which come with a keyframe as the structure, and are then
// named by number:
//
//	start(1) end(1) template(6) frame number(16)                 always: 3 bytes
//	structure?(1) mask?(1) dtis?(1) fdiffs?(1) chains?(1)        with a fourth byte
//	[structure] [mask of active targets] [dtis] [fdiffs] [chains] as the flags say, bit by bit

// MaxDescriptor is the longest descriptor in bytes: what a two-byte header extension carries.
const MaxDescriptor = 255

const (
	maxTemplates = 64
	maxTargets   = 32
	maxSpatial   = 4    // AV1 and VP9 name no more
	maxTemporal  = 8    // likewise
	maxRefs      = 8    // AV1 keeps eight frames to refer to
	farBack      = 1024 // frames: what is as late as that is no straggler but another numbering
)

// What a frame is to a decode target (table A.1).
const (
	dtiAbsent = iota
	dtiDiscardable
	dtiSwitch
	dtiRequired
)

// frameDef is what a template says of the frames that name it, or a packet of its own.
type frameDef struct {
	spatial, temporal uint8
	dtis              uint64 // two bits each
	refs              [maxRefs]uint16
	refCount          uint8
	chains            [maxTargets]uint8
}

func (f *frameDef) dti(target uint8) uint8 { return uint8(f.dtis >> (2 * target) & 3) }

// present is the set of targets that the frame belongs to.
func (f *frameDef) present(targets uint8) (set uint32) {
	for t := range targets {
		if f.dti(t) != dtiAbsent {
			set |= 1 << t
		}
	}
	return set
}

// target is a decode target: a part of the stream that can be decoded by itself.
type target struct {
	spatial, temporal uint8
	chain             uint8  // that protects it
	within            uint32 // the targets all of whose frames are this one's too, itself included
}

// structure is a template dependency structure.
type structure struct {
	generation uint32 // counts the structures of a source
	offset     uint8  // number of the first template
	count      uint8
	targets    uint8
	chains     uint8
	templates  [maxTemplates]frameDef
	target     [maxTargets]target
	width      [maxSpatial]uint16 // pixels; 0: not said
	height     [maxSpatial]uint16
}

func (s *structure) all() uint32 { return uint32(1)<<s.targets - 1 }

// read reads template_dependency_structure().
func (s *structure) read(r *bitReader) {
	*s = structure{generation: s.generation, offset: uint8(r.f(6)), targets: uint8(r.f(5)) + 1}
	top := s.readLayers(r)
	for n := range s.count {
		for t := range s.targets {
			s.templates[n].dtis |= uint64(r.f(2)) << (2 * t)
		}
	}
	for n := range s.count {
		for r.flag() {
			s.templates[n].refer(r, 4)
		}
	}
	s.readChains(r)
	s.layTargets()
	if r.flag() {
		for n := range top + 1 {
			s.width[n], s.height[n] = size(r.f(16)), size(r.f(16))
		}
	}
}

// size is a dimension from what is written, which is one less. The greatest does not fit, and is nobody's.
func size(v uint32) uint16 { return uint16(min(v+1, 0xffff)) }

// readLayers reads template_layers(), and gives the highest spatial layer.
func (s *structure) readLayers(r *bitReader) uint8 {
	spatial, temporal := uint8(0), uint8(0)
	for !r.bad {
		if s.count == maxTemplates || spatial == maxSpatial || temporal == maxTemporal {
			r.bad = true
			break
		}
		s.templates[s.count].spatial, s.templates[s.count].temporal = spatial, temporal
		s.count++
		switch r.f(2) {
		case 1:
			temporal++
		case 2:
			spatial, temporal = spatial+1, 0
		case 3:
			return spatial
		}
	}
	return 0
}

// refer reads one fdiff.
func (f *frameDef) refer(r *bitReader, width int) {
	if f.refCount == maxRefs {
		r.bad = true
		return
	}
	f.refs[f.refCount] = uint16(r.f(width)) + 1
	f.refCount++
}

// readChains reads template_chains().
func (s *structure) readChains(r *bitReader) {
	if s.chains = uint8(r.ns(uint32(s.targets) + 1)); s.chains == 0 {
		return
	}
	for t := range s.targets {
		s.target[t].chain = uint8(r.ns(uint32(s.chains)))
	}
	for n := range s.count {
		for c := range s.chains {
			s.templates[n].chains[c] = uint8(r.f(4))
		}
	}
}

// layTargets finds the layers of each target (decode_target_layers()), and what other targets it holds.
func (s *structure) layTargets() {
	for t := range s.targets {
		s.target[t].within = s.all()
	}
	for n := range s.count {
		f := &s.templates[n]
		present := f.present(s.targets)
		for t := range s.targets {
			to := &s.target[t]
			if present>>t&1 == 0 {
				to.within &^= present
				continue
			}
			to.spatial, to.temporal = max(to.spatial, f.spatial), max(to.temporal, f.temporal)
		}
	}
}

// choose finds the best active target within two layers, or the least one.
func (s *structure) choose(active uint32, spatial, temporal uint8) uint8 {
	best, least, found := uint8(0), uint8(0), false
	rank := func(t uint8) int { return int(s.target[t].spatial)<<8 | int(s.target[t].temporal) }
	if active &= s.all(); active == 0 {
		active = s.all()
	}
	any := false
	for t := range s.targets {
		if active>>t&1 == 0 {
			continue
		}
		if !any || rank(t) < rank(least) {
			least, any = t, true
		}
		if s.target[t].spatial <= spatial && s.target[t].temporal <= temporal && (!found || rank(t) > rank(best)) {
			best, found = t, true
		}
	}
	if !found {
		return least
	}
	return best
}

// Edges is where the parts of a descriptor lie, which is all that rewriting needs. In bits.
type Edges struct {
	maskAt  uint16 // where the mask is, or belongs; 0: there is no fourth byte
	end     uint16 // where the descriptor ends, before its padding; 0: there is none
	masked  uint8  // width of the mask that is there
	targets uint8  // width that a mask has; 0: that is not known
}

// Described reports whether there is a descriptor.
func (e *Edges) Described() bool { return e.end != 0 }

// Descriptor is what the dependency descriptor of a packet says. It holds until the next one of the same source is read.
type Descriptor struct {
	Edges
	Start, End bool // the packet is the first, or the last, of its frame
	Key        bool // a coded video sequence begins with this packet
	Known      bool // the structure is here: the frame's layers, targets and references are known
	Frame      uint16
	Seq        int64 // the frame number, made to count on for ever

	active     uint32 // the targets that the publisher makes at the moment
	of         *structure
	def        frameDef
	structured bool // it brings a structure
}

// Layers gives the frame's own.
func (d *Descriptor) Layers() (spatial, temporal uint8) { return d.def.spatial, d.def.temporal }

// Active gives the targets that are made, or sent, at the moment: a bit each.
func (d *Descriptor) Active() uint32 { return d.active }

// Top gives the highest layers of the stream that are active.
func (d *Descriptor) Top() (spatial, temporal uint8) {
	for t := range d.of.targets {
		if d.active>>t&1 == 1 {
			spatial, temporal = max(spatial, d.of.target[t].spatial), max(temporal, d.of.target[t].temporal)
		}
	}
	return spatial, temporal
}

// Size gives the highest layer's in pixels, where the structure says it.
func (d *Descriptor) Size() (width, height uint16) {
	spatial, _ := d.Top()
	return d.of.width[spatial], d.of.height[spatial]
}

// Target finds the best decode target within two layers, or the least.
func (d *Descriptor) Target(spatial, temporal uint8) uint8 {
	return d.of.choose(d.active, spatial, temporal)
}

// MayDrop reports whether a target stays decodable without the frame: it is discardable, or in no chain that protects the target (A.6).
func (d *Descriptor) MayDrop(target uint8) bool {
	if dti := d.def.dti(target); dti == dtiAbsent || dti == dtiDiscardable {
		return true
	}
	if d.of.chains == 0 {
		return false
	}
	for t := range d.of.targets {
		if d.of.target[t].chain == d.of.target[target].chain && d.def.dti(t) <= dtiDiscardable {
			return true
		}
	}
	return false
}

// Dependencies reads the descriptors of one source: it remembers the structure, and the one before for stragglers. It takes some 16 kB.
type Dependencies struct {
	structures [2]structure
	now        int
	have, prev bool  // structures[now] and the other are valid
	since      int64 // the frame that the structure came with
	active     uint32
	activeAt   int64 // the frame that said so
	last       int64
	lastFrame  uint16
	begun      bool
}

// Read reads one descriptor into d. One that cannot be read is refused; one that names an unknown template is not, but Known is false.
func (s *Dependencies) Read(b []byte, d *Descriptor) bool {
	if len(b) < 3 || len(b) > MaxDescriptor {
		return false
	}
	r := bitReader{b: b}
	*d = Descriptor{Start: r.flag(), End: r.flag()}
	template := uint8(r.f(6))
	d.Frame = uint16(r.f(16))
	var structured, masked, dtis, fdiffs, chains bool
	if len(b) > 3 {
		structured, masked, dtis, fdiffs, chains = r.flag(), r.flag(), r.flag(), r.flag(), r.flag()
		d.maskAt = uint16(r.at)
	}
	d.Seq, d.structured = s.count(d.Frame, structured), structured
	brought := &s.structures[1-s.now]
	if d.of = s.of(d.Seq); structured {
		s.prev = false
		brought.read(&r)
		if r.bad {
			return false
		}
		if d.of = s.adopt(brought, d.Seq); d.of != brought {
			brought = nil
		}
	}
	if d.of == nil || (template+maxTemplates-d.of.offset)%maxTemplates >= d.of.count {
		d.end = uint16(8 * len(b))
		return !structured
	}
	d.maskAt = max(d.maskAt, uint16(r.at))
	if len(b) == 3 {
		d.maskAt = 0
	}
	if d.active = s.active; d.structured || d.of != &s.structures[s.now] {
		d.active = d.of.all()
	}
	if masked {
		d.masked = d.of.targets
		d.active = r.f(int(d.masked))
	}
	d.def = d.of.templates[(template+maxTemplates-d.of.offset)%maxTemplates]
	d.def.custom(&r, d.of, dtis, fdiffs, chains)
	d.end, d.targets = uint16(r.at), d.of.targets
	if r.bad {
		return false
	}
	d.Known, d.Key = true, structured && d.Start && d.def.refCount == 0
	s.keep(d, brought != nil && structured, masked)
	return true
}

// custom reads what a packet says instead of its template.
func (f *frameDef) custom(r *bitReader, of *structure, dtis, fdiffs, chains bool) {
	if dtis {
		f.dtis = 0
		for t := range of.targets {
			f.dtis |= uint64(r.f(2)) << (2 * t)
		}
	}
	if fdiffs {
		f.refCount = 0
		for n := r.f(2); n != 0; n = r.f(2) {
			f.refer(r, 4*int(n))
		}
	}
	if chains {
		for c := range of.chains {
			f.chains[c] = uint8(r.f(8))
		}
	}
}

// count makes a frame number one that counts on. A structure that is far behind begins another numbering: an encoder was made anew.
func (s *Dependencies) count(frame uint16, structured bool) int64 {
	ahead := int64(int16(frame - s.lastFrame))
	if !s.begun || structured && ahead < -farBack {
		ahead, s.begun = 1, true
	}
	if ahead <= 0 {
		return s.last + ahead
	}
	s.last, s.lastFrame = s.last+ahead, frame
	return s.last
}

// adopt numbers a structure that came with a frame, or gives the one in force when it says the same again, as keyframes mostly do.
func (s *Dependencies) adopt(brought *structure, seq int64) *structure {
	now := &s.structures[s.now]
	if !s.have {
		brought.generation = 1
		return brought
	}
	if brought.generation = now.generation; *brought == *now {
		return now
	}
	switch {
	case seq > s.since:
		brought.generation++
	case seq < s.since:
		brought.generation--
	}
	return brought
}

// of gives the structure that was in force at a frame; nil: it is not known.
func (s *Dependencies) of(seq int64) *structure {
	switch {
	case s.have && seq >= s.since:
		return &s.structures[s.now]
	case s.prev:
		return &s.structures[1-s.now]
	}
	return nil
}

// keep remembers what a descriptor has brought, unless there is later word.
func (s *Dependencies) keep(d *Descriptor, another, masked bool) {
	if another {
		if s.have && d.Seq <= s.since {
			return // again, or late
		}
		s.prev, s.have, s.now, s.since = s.have, true, 1-s.now, d.Seq
		s.active, s.activeAt = d.active, d.Seq
	}
	if (masked || d.structured) && d.Seq >= s.activeAt && d.of == &s.structures[s.now] {
		s.active, s.activeAt = d.active, d.Seq
	}
}

// Rewrite copies a descriptor to dst with another frame number, and when mask is not 0 with that for the targets that are sent. It gives
// how many bytes it wrote; 0: dst is too short, and the descriptor stays away.
func (e *Edges) Rewrite(b, dst []byte, frame uint16, mask uint32) int {
	w := bitWriter{b: dst}
	w.copy(b, 0, 8)
	w.f(16, uint32(frame))
	switch {
	case mask == 0 || e.targets == 0:
		w.copy(b, 24, 8*len(b))
	case e.maskAt == 0:
		w.f(5, 1<<3)
		w.f(int(e.targets), mask)
	default:
		w.copy(b, 24, 25)
		w.f(1, 1)
		w.copy(b, 26, int(e.maskAt))
		w.f(int(e.targets), mask)
		w.copy(b, int(e.maskAt)+int(e.masked), int(e.end))
	}
	n := w.pad()
	if w.bad || n > MaxDescriptor {
		return 0
	}
	return n
}
