package role

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/fence"
	"orama.network/orama/internal/plan"
)

const (
	// maxTenantsFile bounds a tenants file, in bytes.
	maxTenantsFile = 1 << 20
	// maxTenants bounds how many a relay that stands alone has.
	maxTenants = 1000
	// maxTenantSecret bounds one secret, in bytes.
	maxTenantSecret = 1024
	// shortSecret is a length below which somebody with one credential may find the secret by trying. Ours have 43.
	shortSecret = 16
)

// fileTenant is one tenant of a tenants file.
type fileTenant struct {
	ns     orama.NamespaceID
	secret string
	rules  []fence.Rule // instead of the server's, when own
	own    bool
	limits plan.TenantLimits
}

// parseTenants reads a tenants file: a mapping from names to secrets, or to mappings with a secret and limits. What it
// says of a mistake shows nothing of a secret.
func parseTenants(text []byte) ([]fileTenant, error) {
	if len(text) > maxTenantsFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxTenantsFile)
	}
	if secondDocument(text) {
		return nil, errors.New("a line of '---' begins a second document; there is to be one")
	}
	var raw map[string]any
	if err := config.Decode(text, &raw, false); err != nil {
		// The decoder's own words may quote what stands there.
		return nil, errors.New(quoted.ReplaceAllString(err.Error(), `"…"`))
	}
	switch {
	case len(raw) == 0:
		return nil, errors.New("there is no tenant in it; write one a line, NAME: SECRET")
	case len(raw) > maxTenants:
		return nil, fmt.Errorf("%d tenants are too many; %d may be", len(raw), maxTenants)
	}
	var out []fileTenant
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if auth.ValidNamespace(name) != nil { // its words stay unsaid: somebody may have written SECRET: NAME
			return nil, errors.New("there is a name that is none: it is 2 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit")
		}
		t, err := parseTenant(raw[name])
		if err != nil {
			return nil, fmt.Errorf("tenant %s: %w", name, err)
		}
		t.ns = orama.NamespaceID(name)
		out = append(out, t)
	}
	return out, nil
}

var quoted = regexp.MustCompile(`"[^"]*"`)

var documentMark = regexp.MustCompile(`(?m)^(---|\.\.\.)(\s|$)`)

// secondDocument reports whether something stands before a document mark: what is behind it would not be read.
func secondDocument(text []byte) bool {
	marks := documentMark.FindAllIndex(text, -1)
	if len(marks) == 0 {
		return false
	}
	for line := range bytes.Lines(text[:marks[0][0]]) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return true
		}
	}
	return len(marks) > 1
}

func parseTenant(v any) (t fileTenant, err error) {
	fields, ok := v.(map[string]any)
	if !ok {
		t.secret, err = parseSecret(v)
		return t, err
	}
	numbers := map[string]func(int64){
		"allocations":             func(n int64) { t.limits.Allocations = int(n) },
		"bytes_per_second":        func(n int64) { t.limits.BytesPerSecond = n },
		"burst_bytes":             func(n int64) { t.limits.BurstBytes = n },
		"client_allocations":      func(n int64) { t.limits.ClientAllocations = int(n) },
		"client_bytes_per_second": func(n int64) { t.limits.ClientBytesPerSecond = n },
		"client_burst_bytes":      func(n int64) { t.limits.ClientBurstBytes = n },
	}
	known := append(slices.Sorted(maps.Keys(numbers)), "secret", "allow")
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		set := numbers[name]
		switch {
		case name == "secret":
			t.secret, err = parseSecret(fields[name])
		case name == "allow":
			t.own = true
			t.rules, err = parseAllow(fields[name])
		case set == nil:
			err = fmt.Errorf("there is a key that is not known; these are: %s", strings.Join(known, ", "))
		default:
			var n int64
			n, err = parseNumber(fields[name])
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			} else {
				set(n)
			}
		}
		if err != nil {
			return t, err
		}
	}
	if t.secret == "" {
		return t, errors.New("it has no secret; write secret: SECRET")
	}
	return t, t.limits.Check()
}

func parseSecret(v any) (string, error) {
	s, ok := v.(string)
	switch {
	case v == nil:
		return "", errors.New("it has no secret")
	case !ok:
		return "", errors.New("its secret is no text, as YAML reads it; put it in quotes")
	case s == "":
		return "", errors.New("its secret is empty")
	case len(s) > maxTenantSecret:
		return "", fmt.Errorf("its secret is longer than %d bytes", maxTenantSecret)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) }) || strings.TrimSpace(s) != s:
		return "", errors.New("its secret has a line break or other control character in it, or white space around it; put it on one line, in quotes")
	}
	return s, nil
}

func parseNumber(v any) (int64, error) {
	switch n := v.(type) {
	case int64:
		return n, nil
	case uint64:
		if n < 1<<62 {
			return int64(n), nil
		}
	}
	return 0, errors.New("it is to be a whole number")
}

func parseAllow(v any) ([]fence.Rule, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, errors.New(`allow: it is a list, such as ["10.0.0.0/24:20000-20499"]`)
	}
	var out []fence.Rule
	for _, item := range list {
		text, ok := item.(string)
		if !ok {
			return nil, errors.New("allow: a rule is text; put it in quotes")
		}
		r, err := fence.ParseRule(text)
		if err != nil {
			return nil, fmt.Errorf("allow: %w", err)
		}
		out = append(out, r)
	}
	return out, nil
}

// tenantsWatch finds out when a tenants file has changed. It belongs to one goroutine.
type tenantsWatch struct {
	path string
	last stamp    // at the last look
	done stamp    // whose content has been judged
	sum  [32]byte // of what was judged last
}

// stamp changes when a file does. The change time cannot be set by hand, as a copy that keeps times does with the other.
type stamp struct {
	inode, device    uint64
	size             int64
	modified, change time.Time
	problem          string
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{problem: err.Error()}
	}
	s := stamp{size: info.Size(), modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode, s.device, s.change = st.Ino, uint64(st.Dev), time.Unix(st.Ctim.Unix()) //nolint:unconvert // not of this type on every processor
	}
	return s
}

// read gives the file as it is now. fresh says that it, or why it cannot be read, is not what was judged last.
func (w *tenantsWatch) read() (tenants []fileTenant, fresh bool, err error) {
	w.last = stampOf(w.path)
	text, err := readTenants(w.path)
	if err == nil {
		tenants, err = parseTenants(text)
	}
	if err != nil {
		err = orama.Errorf(orama.KindInvalid, "bad_tenants", "the tenants file %s: %v", w.path, err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%v", text, err))
	fresh = sum != w.sum
	w.sum = sum
	return tenants, fresh, err
}

// changed gives the file once it differs from what was judged last and has stayed as it is from one look to the next: what is
// half written is not read.
func (w *tenantsWatch) changed() (tenants []fileTenant, fresh bool, err error) {
	now := stampOf(w.path)
	if now == w.done {
		return nil, false, nil
	}
	if now != w.last {
		w.last = now
		return nil, false, nil
	}
	w.done = now
	return w.read()
}

func readTenants(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(f, maxTenantsFile+1)); err == nil {
			return text, nil
		}
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err // the path is said by the caller
	}
	return nil, err
}

// othersRead reports whether a file of secrets is open to more users than its owner and group.
func othersRead(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm()&0o004 != 0
}

// divide gives each tenant a block of relay ports of its own inside all. Those of old keep theirs; the others, in the order
// of their names, have the first gap of size ports, or half of the largest gap when all are smaller.
func divide(all orama.PortRange, size int, old map[orama.NamespaceID]orama.PortRange, tenants []fileTenant) (map[orama.NamespaceID]orama.PortRange, error) {
	blocks := map[orama.NamespaceID]orama.PortRange{}
	for _, t := range tenants {
		if b, ok := old[t.ns]; ok {
			blocks[t.ns] = b
		}
	}
	for _, t := range tenants {
		if _, ok := blocks[t.ns]; ok {
			continue
		}
		b := place(gaps(all, slices.Collect(maps.Values(blocks))), size)
		if b.Count == 0 {
			return nil, orama.Errorf(orama.KindLimited, "no_relay_ports", "there are no relay ports left for tenant %s; give more with --relay-ports, or fewer to each "+
				"with --tenant-ports, and start again", t.ns)
		}
		blocks[t.ns] = b
	}
	return blocks, nil
}

func place(free []orama.PortRange, size int) (b orama.PortRange) {
	for _, g := range free {
		if int(g.Count) >= size {
			return orama.PortRange{First: g.First, Count: uint16(size)} //nolint:gosec // not above Count
		}
		if g.Count > b.Count {
			b = g
		}
	}
	b.Count -= b.Count / 2
	return b
}

// gaps are what is free of a range, in order.
func gaps(all orama.PortRange, taken []orama.PortRange) (free []orama.PortRange) {
	slices.SortFunc(taken, func(a, b orama.PortRange) int { return int(a.First) - int(b.First) })
	next, end := int(all.First), int(all.First)+int(all.Count)
	for _, b := range taken {
		if int(b.First) > next {
			free = append(free, orama.PortRange{First: uint16(next), Count: b.First - uint16(next)}) //nolint:gosec // ports
		}
		next = int(b.First) + int(b.Count)
	}
	if next < end {
		free = append(free, orama.PortRange{First: uint16(next), Count: uint16(end - next)}) //nolint:gosec // ports
	}
	return free
}
