package sfu

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// Bounds of a client's description. A call of 100 people is about 200 sections of 60 lines.
const (
	maxSections     = 512
	maxSectionLines = 1024
	maxLine         = 4 << 10 // bytes
	maxSSRCs        = 64      // a=ssrc lines of one section; a browser writes 4 to 12
	maxRIDs         = 8       // simulcast streams of one section
	maxMid          = 32      // bytes
	maxCandidates   = 128     // relay candidates of one description
)

// description is a client's SDP after the filter: what pion is given, and what the SFU itself
// wants to know of it.
type description struct {
	text     string
	sections []section
	ufrag    string // of ICE; another than before restarts it (RFC 8839 section 4.4.1.1.1)
	firefox  bool   // it says so in its origin line
	removed  int    // candidates that are not of type relay
	// transport is the id of the header extension that numbers packets across the sections; 0: there is none.
	transport uint8
}

// section is one media section (RFC 8866 section 5.14).
type section struct {
	mid       string
	kind      string // "audio", "video" or "application"
	direction string // "sendrecv", "sendonly", "recvonly" or "inactive"
	rejected  bool   // its port is 0 and it is not bundle-only
	codecs    []string
	formats   []string // payload types, the most wanted first
	transport uint8    // the id of the transport's numbers; 0: it has none
}

func badSDP(format string, args ...any) error { return fmt.Errorf("sdp: "+format, args...) }

// answers reports whether d has exactly the sections of an offer, in order.
func (d description) answers(mids []string) bool {
	return slices.EqualFunc(d.sections, mids, func(s section, mid string) bool { return s.mid == mid })
}

// filterSDP takes the candidates out of raw, counting those that are not of type relay, and refuses what pion should not see:
// what is out of bounds, and what would leave it half way through a description. It is pure.
func filterSDP(raw string) (description, error) {
	text, removed, err := filterLines(raw)
	if err != nil {
		return description{}, err
	}
	var parsed sdp.SessionDescription
	if err := parsed.UnmarshalString(text); err != nil {
		return description{}, badSDP("cannot be parsed")
	}
	d := description{text: text, removed: removed, firefox: strings.HasPrefix(parsed.Origin.Username, "mozilla")}
	if _, lite := parsed.Attribute(sdp.AttrKeyICELite); lite {
		return description{}, badSDP("two ICE-lite agents never connect")
	}
	if err := d.readSections(&parsed); err != nil {
		return description{}, err
	}
	ufrag, err := checkTransport(&parsed)
	d.ufrag = ufrag
	return d, err
}

// filterLines bounds the text and drops candidate lines.
func filterLines(raw string) (text string, removed int, err error) {
	var out strings.Builder
	out.Grow(len(raw) + 64)
	sections, lines, kept := 0, 0, 0
	for line := range strings.Lines(raw) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "m=") {
			sections, lines = sections+1, 0
		}
		if lines++; sections > maxSections || lines > maxSectionLines || len(line) > maxLine {
			return "", 0, badSDP("more than %d sections, %d lines in one, or %d bytes in a line", maxSections, maxSectionLines, maxLine)
		}
		if value, ok := strings.CutPrefix(line, "a=candidate:"); ok {
			relay, err := relayCandidate(value)
			if err != nil {
				return "", 0, err
			}
			if !relay {
				removed++
			} else if kept++; kept > maxCandidates {
				return "", 0, badSDP("more than %d candidates", maxCandidates)
			}
			// A relay candidate is good, and of no use: an ICE-lite agent learns its peers' addresses
			// from their checks. Nothing of a stranger's address is parsed further.
			continue
		}
		// The SFU sends no simulcast. What a client says of receiving it, pion repeats and counts among what the client sends.
		if strings.HasPrefix(line, "a=rid:") && strings.HasSuffix(line, " recv") || strings.HasPrefix(line, "a=simulcast:recv ") && !strings.Contains(line, " send ") {
			continue
		}
		out.WriteString(line)
		out.WriteString("\r\n")
	}
	return out.String(), removed, nil
}

// readSections fills d.sections and checks each.
func (d *description) readSections(parsed *sdp.SessionDescription) error {
	seen := make(map[string]bool, len(parsed.MediaDescriptions))
	types := payloads{}
	for _, m := range parsed.MediaDescriptions {
		s, err := readSection(parsed, m)
		if err != nil {
			return err
		}
		if err := types.check(m); err != nil {
			return err
		}
		if seen[s.mid] {
			return badSDP("two sections have mid %q", s.mid)
		}
		seen[s.mid] = true
		d.sections = append(d.sections, s)
		if d.transport == 0 {
			d.transport = s.transport
		}
	}
	if len(d.sections) == 0 {
		return badSDP("no media section")
	}
	return nil
}

func readSection(parsed *sdp.SessionDescription, m *sdp.MediaDescription) (section, error) {
	mid, _ := m.Attribute(sdp.AttrKeyMID)
	s := section{mid: mid, kind: m.MediaName.Media, direction: directionOf(parsed, m), formats: m.MediaName.Formats}
	switch {
	case !validToken(mid, maxMid):
		return s, badSDP("a section has no mid, or one that is no token of at most %d bytes", maxMid)
	case s.kind != "audio" && s.kind != "video" && s.kind != "application":
		return s, badSDP("section %s is neither audio, video nor application", mid)
	}
	_, bundleOnly := m.Attribute("bundle-only")
	s.rejected = m.MediaName.Port.Value == 0 && !bundleOnly
	ssrcs, rids := 0, 0
	for _, a := range m.Attributes {
		switch a.Key {
		case sdp.AttrKeySSRC:
			ssrcs++
		case "rid":
			rids++
		case sdp.AttrKeyExtMap: // id[/direction] uri (RFC 8285 section 8)
			if id, uri, _ := strings.Cut(a.Value, " "); uri == sdp.TransportCCURI {
				id, _, _ = strings.Cut(id, "/")
				n, _ := strconv.ParseUint(id, 10, 8) // 0 for what is none
				s.transport = uint8(n)               //nolint:gosec // eight bits
			}
		case "rtpmap":
			if _, name, ok := strings.Cut(a.Value, " "); ok {
				name, _, _ = strings.Cut(name, "/")
				s.codecs = append(s.codecs, strings.ToLower(s.kind+"/"+name))
			}
		}
	}
	if ssrcs > maxSSRCs || rids > maxRIDs {
		return s, badSDP("section %s has more than %d ssrc lines or %d rids", mid, maxSSRCs, maxRIDs)
	}
	if strings.HasPrefix(s.direction, "send") {
		return s, oneTrack(m)
	}
	return s, nil
}

// directionOf is the section's direction, or the session's, or sendrecv (RFC 8866 section 6.7).
func directionOf(parsed *sdp.SessionDescription, m *sdp.MediaDescription) string {
	for _, attrs := range [][]sdp.Attribute{m.Attributes, parsed.Attributes} {
		for _, a := range attrs {
			switch a.Key {
			case sdp.AttrKeySendRecv, sdp.AttrKeySendOnly, sdp.AttrKeyRecvOnly, sdp.AttrKeyInactive:
				return a.Key
			}
		}
	}
	return sdp.AttrKeySendRecv
}

// checkTransport wants what pion asks for only after it has already changed its state, and gives
// the ICE user fragment.
func checkTransport(parsed *sdp.SessionDescription) (string, error) {
	tag := transportSection(parsed)
	if tag == nil {
		return "", badSDP("the BUNDLE group names no section")
	}
	find := func(key string) string {
		if v, ok := parsed.Attribute(key); ok {
			return v
		}
		v, _ := tag.Attribute(key)
		return v
	}
	ufrag, pwd := find("ice-ufrag"), find("ice-pwd")
	if len(ufrag) < 4 || len(ufrag) > 256 || len(pwd) < 22 || len(pwd) > 256 {
		return "", badSDP("no ICE credentials of RFC 8839 section 5.4")
	}
	if !fingerprint(find("fingerprint")) {
		return "", badSDP("no fingerprint")
	}
	return ufrag, nil
}

// transportSection is the section whose transport all others share: the first of the BUNDLE
// group (RFC 9143 section 7.2), or the first of all. It is nil when the group names none.
func transportSection(parsed *sdp.SessionDescription) *sdp.MediaDescription {
	group, _ := parsed.Attribute(sdp.AttrKeyGroup)
	fields := strings.Split(group, " ")
	if !strings.Contains(group, "BUNDLE") || len(fields) < 2 || fields[1] == "" {
		return parsed.MediaDescriptions[0]
	}
	for _, m := range parsed.MediaDescriptions {
		if mid, _ := m.Attribute(sdp.AttrKeyMID); mid == fields[1] {
			return m
		}
	}
	return nil
}

var errCandidate = errors.New("candidate: not of the form of RFC 8839 section 5.1")

// relayCandidate parses a candidate without its "candidate:" and reports whether it is one the
// SFU may use: of type relay, over UDP, with an address that needs no resolver.
func relayCandidate(value string) (bool, error) {
	// foundation component transport priority address port "typ" type ...
	f := strings.Fields(value)
	if len(f) < 8 || f[6] != "typ" || !digits(f[1], 3) || !digits(f[3], 10) || !digits(f[5], 5) {
		return false, errCandidate
	}
	if f[7] != "relay" || !strings.EqualFold(f[2], "udp") {
		return false, nil
	}
	addr, err := netip.ParseAddr(f[4])
	return err == nil && addr.Zone() == "", nil
}

// digits reports whether s is 1 to most decimal digits.
func digits(s string, most int) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= most
}

// validToken reports whether s is a token (RFC 8866 section 9) of at most most bytes.
func validToken(s string, most int) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]`, c) >= 0 {
			return false
		}
	}
	return s != "" && len(s) <= most
}
