package firewall

import (
	"net/netip"
	"slices"
	"strings"
)

// maxRules bounds what is read of a listing: a host with more has another problem.
const maxRules = 10_000

// Parse reads what `ufw show added` prints. Lines that it does not understand are left out: they are not ours, for ours
// are written by this package.
func Parse(listing string) []Rule {
	var out []Rule
	for line := range strings.Lines(listing) {
		rest, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "ufw ")
		if !ok {
			continue
		}
		if r, ok := parseRule(rest); ok && len(out) < maxRules {
			out = append(out, r)
		}
	}
	return out
}

// token is one word of a rule. A quoted one is never a keyword.
type token struct {
	text   string
	quoted bool
}

// tokens splits a line at spaces; 'single quotes' hold a word together, and nothing escapes them.
func tokens(line string) ([]token, bool) {
	var out []token
	for {
		line = strings.TrimLeft(line, " ")
		if line == "" {
			return out, true
		}
		if line[0] != '\'' {
			word, rest, _ := strings.Cut(line, " ")
			if strings.Contains(word, "'") {
				return nil, false
			}
			out, line = append(out, token{text: word}), rest
			continue
		}
		word, rest, ok := strings.Cut(line[1:], "'")
		if !ok || rest != "" && rest[0] != ' ' {
			return nil, false
		}
		out, line = append(out, token{word, true}), rest
	}
}

// reader takes a rule's words one by one.
type reader struct {
	left []token
	bad  bool
}

// is takes the next word if it is this one.
func (s *reader) is(word string) bool {
	if len(s.left) == 0 || s.left[0].quoted || s.left[0].text != word {
		return false
	}
	s.left = s.left[1:]
	return true
}

// next takes a word that has to be there.
func (s *reader) next() string {
	if len(s.left) == 0 || s.left[0].text == "" {
		s.bad = true
		return ""
	}
	w := s.left[0].text
	s.left = s.left[1:]
	return w
}

// oneOf takes the next word if it is one of these.
func (s *reader) oneOf(words ...string) string {
	if i := slices.IndexFunc(words, s.is); i >= 0 {
		return words[i]
	}
	return ""
}

// parseRule reads one rule in either of ufw's forms:
//
//	[route] ACTION [in on IF] [out on IF | out] [LOG] [from END] [to END] [proto P] [comment 'C']
//	ACTION [out] [LOG] PORT[/P] | 'APP' [comment 'C']
func parseRule(line string) (Rule, bool) {
	words, ok := tokens(line)
	if !ok {
		return Rule{}, false
	}
	s := &reader{left: words}
	var r Rule
	r.Route = s.is("route")
	r.Action = s.oneOf("allow", "deny", "reject", "limit")
	s.direction(&r)
	r.Log = s.oneOf("log", "log-all")
	if len(s.left) > 0 && (s.left[0].quoted || !slices.Contains([]string{"from", "to", "proto", "comment"}, s.left[0].text)) {
		r.To, r.Proto = short(s.left[0])
		s.next()
	}
	if s.is("from") {
		r.From = s.end()
	}
	if s.is("to") {
		r.To = s.end()
	}
	if s.is("proto") {
		r.Proto = s.next()
	}
	if s.is("comment") {
		r.Comment = s.next()
	}
	return r, r.Action != "" && !s.bad && len(s.left) == 0
}

func (s *reader) direction(r *Rule) {
	if s.is("in") && s.is("on") {
		r.InOn = s.next()
	}
	if s.is("out") {
		r.Out = true
		if s.is("on") {
			r.OutOn = s.next()
		}
	}
}

// short reads "3478/udp", "80,443/tcp", "22", or the name of an application profile.
func short(t token) (to End, proto string) {
	port, proto, _ := strings.Cut(t.text, "/")
	if t.quoted || port == "" || strings.Trim(port, "0123456789:,") != "" {
		return End{App: t.text}, ""
	}
	return End{Port: port}, proto
}

// end reads what follows from or to: any, an address or a network, and its port or profile.
func (s *reader) end() End {
	var e End
	if !s.is("any") {
		word := s.next()
		if a, err := netip.ParseAddr(word); err == nil && a.Zone() == "" {
			e.Net = netip.PrefixFrom(a, a.BitLen())
		} else if e.Net, err = netip.ParsePrefix(word); err != nil {
			s.bad = true
		}
	}
	switch {
	case s.is("port"):
		e.Port = s.next()
	case s.is("app"):
		e.App = s.next()
	}
	return e
}
