package sfu

import (
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// payloads remembers which payload type means which codec: in one BUNDLE group a type means one
// thing (RFC 9143 section 9.1), and pion keeps one table for all sections.
type payloads map[int]string

// check reads what pion parses of a section after it has taken the description on: anything it
// would then stumble over is refused before.
func (p payloads) check(m *sdp.MediaDescription) error {
	if m.MediaName.Media == "application" {
		return nil
	}
	known := (&sdp.SessionDescription{MediaDescriptions: []*sdp.MediaDescription{m}}).GetCodecMap()
	for _, f := range m.MediaName.Formats {
		n, _ := strconv.Atoi(f)
		if _, ok := known[uint8(n)]; !payloadType(f) || !ok && n != 0 {
			return badSDP("%q is no payload type, or has no rtpmap", clip(f))
		}
	}
	for _, a := range m.Attributes {
		if err := p.attribute(m.MediaName.Media, a); err != nil {
			return err
		}
	}
	return nil
}

func (p payloads) attribute(kind string, a sdp.Attribute) error {
	switch a.Key {
	case "rtpmap":
		return p.rtpmap(kind, a.Value)
	case "fmtp":
		pt, rest, _ := strings.Cut(a.Value, " ")
		if !payloadType(pt) {
			return badSDP("fmtp of %q", clip(pt))
		}
		if apt, ok := strings.CutPrefix(rest, "apt="); ok && !payloadType(apt) {
			return badSDP("apt of %q", clip(apt))
		}
	case sdp.AttrKeyExtMap:
		var e sdp.ExtMap
		if err := e.Unmarshal(sdp.AttrKeyExtMap + ":" + a.Value); err != nil || e.Value < 1 || e.Value > 255 || e.URI == nil {
			return badSDP("extmap %q", clip(a.Value))
		}
	}
	return nil
}

// rtpmap is "pt name/clock[/channels]" (RFC 8866 section 6.6).
func (p payloads) rtpmap(kind, value string) error {
	pt, name, ok := strings.Cut(value, " ")
	parts := strings.Split(name, "/")
	if !ok || !payloadType(pt) || len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !digits(parts[1], 6) ||
		len(parts) == 3 && !digits(parts[2], 2) {
		return badSDP("rtpmap %q", clip(value))
	}
	n, _ := strconv.Atoi(pt)
	codec := kind + "/" + strings.ToLower(name)
	if known, ok := p[n]; ok && known != codec {
		return badSDP("payload type %d is %s and %s", n, clip(known), clip(codec))
	}
	p[n] = codec
	return nil
}

// oneTrack refuses several sources in one section, which is the old Plan B. Repair flows (RFC
// 5576 section 4.2, RFC 5956) are no sources of their own.
func oneTrack(m *sdp.MediaDescription) error {
	repair, sources := map[string]bool{}, map[string]bool{}
	for _, a := range m.Attributes {
		if f := strings.Split(a.Value, " "); a.Key == sdp.AttrKeySSRCGroup && len(f) == 3 && (f[0] == "FID" || f[0] == "FEC-FR") {
			repair[f[2]] = true
		}
	}
	for _, a := range m.Attributes {
		if ssrc, _, _ := strings.Cut(a.Value, " "); a.Key == sdp.AttrKeySSRC && !repair[ssrc] {
			sources[ssrc] = true
		}
	}
	rids := 0 // the encodings of simulcast have a source each, and some clients name them
	for _, a := range m.Attributes {
		if a.Key == "rid" && strings.HasSuffix(a.Value, " send") {
			rids++
		}
	}
	if len(sources) > max(1, min(rids, maxLayers)) {
		return badSDP("several tracks in one section")
	}
	return nil
}

// payloadType reports whether s is one: 0 to 127.
func payloadType(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && digits(s, 3) && n < 128
}

// fingerprint reports whether value is "hash hex:hex..." (RFC 8122 section 5).
func fingerprint(value string) bool {
	hash, sum, ok := strings.Cut(value, " ")
	raw, err := hex.DecodeString(strings.ReplaceAll(sum, ":", ""))
	return ok && err == nil && len(raw) >= 20 && validToken(hash, 16)
}

// clip shortens what a stranger wrote before it is shown.
func clip(s string) string { return s[:min(len(s), 40)] }
