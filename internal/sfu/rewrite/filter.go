package rewrite

// Filter chooses among the spatial and temporal layers inside one source. The zero value passes the lowest of each; Want says more.
type Filter struct {
	spatial, temporal         uint8 // passed now
	wantSpatial, wantTemporal uint8
}

// Want sets the highest layers that are to pass, from the next place on where a decoder bears the change.
func (f *Filter) Want(spatial, temporal uint8) { f.wantSpatial, f.wantTemporal = spatial, temporal }

// Reset makes the filter pass what is wanted at once: a source begins.
func (f *Filter) Reset() { f.spatial, f.temporal = f.wantSpatial, f.wantTemporal }

// NeedsKey reports whether what is wanted waits for a keyframe.
func (f *Filter) NeedsKey() bool { return f.wantSpatial > f.spatial }

// Pass reports whether a packet is to be sent, and whether it ends its picture as sent: the RTP marker.
func (f *Filter) Pass(i *Info, marker bool) (pass, end bool) {
	if i.Start && i.Spatial == 0 { // a picture begins
		switch {
		case i.Key:
			f.spatial, f.temporal = f.wantSpatial, f.wantTemporal
		case f.wantTemporal > f.temporal && i.Sync && i.Temporal > f.temporal:
			f.temporal = min(i.Temporal, f.wantTemporal)
		}
		f.spatial, f.temporal = min(f.spatial, f.wantSpatial), min(f.temporal, f.wantTemporal)
	}
	if i.Spatial > f.spatial || i.Temporal > f.temporal {
		return false, false
	}
	return true, marker || i.End && i.Spatial == f.spatial
}
