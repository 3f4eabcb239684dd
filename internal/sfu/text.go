package sfu

import "strings"

// This file holds the small changes made to the text of descriptions, each for a reason that
// pion or a browser gives.

func lower(s string) string { return strings.ToLower(s) }

func trimCandidate(s string) string {
	return strings.TrimPrefix(strings.TrimPrefix(s, "a="), "candidate:")
}

// sectionsOf cuts a description before each m= line; the first part is the session's.
func sectionsOf(text string) []string {
	parts := strings.SplitAfter(text, "\n")
	var out []string
	start := true
	for _, line := range parts {
		if start || strings.HasPrefix(line, "m=") {
			out = append(out, "")
			start = false
		}
		out[len(out)-1] += line
	}
	return out
}

// attribute finds the value of an a= line in one part of a description.
func attribute(part, key string) (string, bool) {
	for line := range strings.Lines(part) {
		if v, ok := strings.CutPrefix(line, "a="+key); ok {
			v = strings.TrimRight(v, "\r\n")
			if v == "" {
				return "", true
			}
			if v[0] == ':' {
				return v[1:], true
			}
		}
	}
	return "", false
}

// midsOf lists the mids of a description's sections; a section without one gives "".
func midsOf(text string) []string {
	var mids []string
	for i, part := range sectionsOf(text) {
		if i > 0 {
			mid, _ := attribute(part, "mid")
			mids = append(mids, mid)
		}
	}
	return mids
}

// fillMids gives sections without a mid the one that is known by their position. A rejected
// section may leave it out (RFC 9429 section 5.3.1), but pion then fails in every later offer.
func fillMids(text string, mids []string) string {
	if len(mids) == 0 {
		return text
	}
	parts := sectionsOf(text)
	for i, part := range parts {
		if i == 0 || i > len(mids) || mids[i-1] == "" {
			continue
		}
		if _, ok := attribute(part, "mid"); !ok && strings.HasSuffix(part, "\n") {
			parts[i] = part + "a=mid:" + mids[i-1] + "\r\n"
		}
	}
	return strings.Join(parts, "")
}

// keepInactive turns inactive sections of a client's offer into recvonly ones. pion stops the
// transceiver of an inactive section for good; with recvonly, and nothing to send, it answers
// inactive and can use the section again.
func keepInactive(text string) string {
	return strings.ReplaceAll(text, "\r\na=inactive\r\n", "\r\na=recvonly\r\n")
}

// silenceUnused turns sections that pion calls sendonly without having anything to send into
// inactive ones: a client's ontrack would otherwise fire for a track that is nobody's.
func silenceUnused(text string) string {
	parts := sectionsOf(text)
	for i, part := range parts {
		if _, ok := attribute(part, "msid"); i > 0 && !ok {
			parts[i] = strings.Replace(part, "\r\na=sendonly\r\n", "\r\na=inactive\r\n", 1)
		}
	}
	return strings.Join(parts, "")
}
