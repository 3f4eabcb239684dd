package client

import (
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"orama.network/orama"
)

// maxLayers is how many encodings of a track an SFU tells apart.
const maxLayers = 3

// Layer is one encoding of a track with simulcast.
type Layer struct {
	track     *LocalTrack
	uplink    *uplink
	keyframes chan struct{}
}

// newLayers makes a layer of each name; none of fewer than two, as one needs no name.
func newLayers(t *LocalTrack) []*Layer {
	if len(t.opts.Layers) < 2 {
		return nil
	}
	var all []*Layer
	for _, rid := range t.opts.Layers {
		u := &uplink{id: t.opts.Source, kind: t.uplink.kind, mime: t.opts.Codec, rid: rid}
		all = append(all, &Layer{track: t, uplink: u, keyframes: make(chan struct{}, 1)})
	}
	return all
}

// checkLayers holds the names to RFC 8851: letters and digits, each once.
func checkLayers(o *TrackOptions) error {
	if len(o.Layers) == 0 {
		return nil
	}
	seen := map[string]bool{}
	for _, rid := range o.Layers {
		ok := rid != "" && len(rid) <= 16 && !seen[rid]
		for _, c := range rid {
			ok = ok && (c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z')
		}
		if !ok {
			return orama.Errorf(orama.KindInvalid, "invalid_layers", "a layer's name is 1 to 16 letters and digits, and names it alone")
		}
		seen[rid] = true
	}
	if o.Kind != "video" || len(o.Layers) > maxLayers {
		return orama.Errorf(orama.KindInvalid, "invalid_layers", "a video has at most %d layers, other tracks have none", maxLayers)
	}
	return nil
}

// encodings are what of the track is sent, the smallest first.
func (t *LocalTrack) encodings() []*uplink {
	if len(t.layers) == 0 {
		return []*uplink{t.uplink}
	}
	var all []*uplink
	for _, l := range t.layers {
		all = append(all, l.uplink)
	}
	return all
}

// Layer gives one encoding of a track that was published with Layers; nil if there is none of the name.
func (t *LocalTrack) Layer(rid string) *Layer {
	for _, l := range t.layers {
		if l.uplink.rid == rid {
			return l
		}
	}
	return nil
}

// KeyframeRequests gives a value when the SFU asked for a keyframe of this layer since it was last read.
func (l *Layer) KeyframeRequests() <-chan struct{} { return l.keyframes }

// WriteRTP sends one packet, as LocalTrack.WriteRTP does. Layers have sequence numbers and timestamps of their own.
func (l *Layer) WriteRTP(p *rtp.Packet) error {
	if l.track.Muted() {
		return nil
	}
	return l.uplink.writeRTP(p)
}

// readRTCP reads what comes back for a layer until its sender stops. Whatever comes says that the SFU knows the layer by its SSRC.
func (l *Layer) readRTCP(s *webrtc.RTPSender, at *lane) {
	for {
		packets, _, err := s.ReadSimulcastRTCP(l.uplink.rid)
		if err != nil {
			return
		}
		at.known.Store(true)
		for _, p := range packets {
			switch p.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				select {
				case l.keyframes <- struct{}{}:
				default:
				}
			}
		}
	}
}

// names are the header extensions that say which layer of which section a packet is of (RFC 8852, RFC 9143). They are
// sent until something comes back: pion's retransmissions repeat them, and would be taken for the layer itself.
type names struct {
	mid, rid uint8 // their ids; 0: not agreed on
}

// namesOf finds them among what was negotiated.
func namesOf(extensions []webrtc.RTPHeaderExtensionParameter) (n names) {
	for _, e := range extensions {
		switch e.URI {
		case sdp.SDESMidURI:
			n.mid = uint8(e.ID) //nolint:gosec // 1 to 14
		case sdp.SDESRTPStreamIDURI:
			n.rid = uint8(e.ID) //nolint:gosec // 1 to 14
		}
	}
	return n
}

// put writes them on a packet of u.
func (n names) put(h *rtp.Header, mid, rid string) error {
	if n.mid == 0 || n.rid == 0 || mid == "" {
		return nil
	}
	h.Extensions = append([]rtp.Extension(nil), h.Extensions...) // the caller's packet stays as it is
	if err := h.SetExtension(n.mid, []byte(mid)); err != nil {
		return err
	}
	return h.SetExtension(n.rid, []byte(rid))
}
