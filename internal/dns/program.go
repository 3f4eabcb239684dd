package dns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"

	"orama.network/orama"
)

const (
	// programVersion is of the request; a program refuses one that it does not know.
	programVersion = 1
	// programTimeout bounds one run, so that a provider's API that hangs is asked again.
	programTimeout = 30 * time.Second
	// programHeldOpen is how long a child that outlives the program may keep its outputs.
	programHeldOpen = time.Second
	// maxProgramAnswer is some ten thousand records.
	maxProgramAnswer = 1 << 20
	// maxProgramLine and maxProgramLines bound what one run may put into the log.
	maxProgramLine, maxProgramLines = 400, 20
	// maxRecordData is the most that a record holds on the wire (RFC 1035 section 3.2.1).
	maxRecordData = 65535
	maxRecordTTL  = 1<<31 - 1 // RFC 2181 section 8
)

// Program is a libdns provider whose work a program of the operator's does, once for each call: it reads one request
// from its standard input and writes one answer to its standard output, both JSON. So any of libdns's providers can be
// had without being compiled in; docs/operations.md has such a program. What it writes to its standard error is logged.
type Program struct {
	command []string
	log     *slog.Logger
	timeout time.Duration
}

var _ Provider = (*Program)(nil)

// NewProgram makes a provider of a command: an absolute path, and its arguments.
func NewProgram(command []string, log *slog.Logger) *Program {
	if log == nil {
		log = slog.Default()
	}
	return &Program{command: slices.Clone(command), log: log, timeout: programTimeout}
}

// programRecord is libdns's RR with its TTL in seconds.
type programRecord struct {
	Name string `json:"name"` // relative to the zone; "@" is the zone itself
	TTL  int64  `json:"ttl"`
	Type string `json:"type"`
	Data string `json:"data"`
}

type programRequest struct {
	Version int             `json:"version"`
	Op      string          `json:"op"`   // "get", "append" or "delete"
	Zone    string          `json:"zone"` // with the trailing dot
	Records []programRecord `json:"records,omitempty"`
}

type programAnswer struct {
	Records []programRecord `json:"records"` // null or missing: it says nothing of records
	Error   string          `json:"error"`
}

// GetRecords has the program read the whole zone.
func (p *Program) GetRecords(ctx context.Context, zone string) ([]libdns.Record, error) {
	recs, said, err := p.call(ctx, "get", zone, nil)
	if err == nil && !said {
		err = p.failed("get", errors.New(`its answer has no "records"; an empty zone is []`))
	}
	return recs, err
}

// AppendRecords has the program add records.
func (p *Program) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	added, _, err := p.call(ctx, "append", zone, recs)
	if err == nil && len(added) != len(recs) { // it need not say what it added
		added = recs
	}
	return added, err
}

// DeleteRecords has the program remove records; those that are not there are none the less gone.
func (p *Program) DeleteRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	_, _, err := p.call(ctx, "delete", zone, recs)
	if err != nil {
		return nil, err
	}
	return recs, nil
}

// call runs the program once. said reports whether the answer speaks of records at all.
func (p *Program) call(ctx context.Context, op, zone string, recs []libdns.Record) (out []libdns.Record, said bool, err error) {
	q := programRequest{Version: programVersion, Op: op, Zone: dns.Fqdn(zone)}
	for _, r := range recs {
		rr := r.RR()
		q.Records = append(q.Records, programRecord{Name: rr.Name, TTL: int64(rr.TTL.Seconds()), Type: rr.Type, Data: rr.Data})
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil, false, err
	}
	text, err := p.run(ctx, op, body)
	if err != nil {
		return nil, false, p.failed(op, err)
	}
	if out, said, err = parseAnswer(q.Zone, text); err != nil {
		return nil, false, p.failed(op, err)
	}
	return out, said, nil
}

func (p *Program) failed(op string, err error) error {
	return &orama.Error{Kind: orama.KindUnavailable, Code: "dns_program", Err: err, Message: fmt.Sprintf("dns program %s: %s", p.command[0], op)}
}

// run gives the program its request and takes its answer. It and its children have a process group of their own, which
// is killed when it takes too long or says too much.
func (p *Program) run(ctx context.Context, op string, request []byte) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	out := &answerBuffer{over: cancel}
	said := &narrator{log: func(text string) { p.log.Info("dns program", "op", op, "says", text) }}
	cmd := exec.CommandContext(bounded, p.command[0], p.command[1:]...) //nolint:gosec // the operator's own
	cmd.Env = programEnvironment(os.Environ())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), out, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = kill, programHeldOpen
	err := cmd.Run()
	last := said.end()
	var exit *exec.ExitError
	switch {
	case out.cut:
		return nil, fmt.Errorf("its answer is longer than %d bytes", maxProgramAnswer)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case bounded.Err() != nil:
		return nil, fmt.Errorf("it was not done within %s%s", p.timeout, last)
	case errors.Is(err, exec.ErrWaitDelay):
		_ = kill() // it may have gone by now
		return nil, fmt.Errorf("it has ended, and a child of it holds its output open%s", last)
	case errors.As(err, &exit) && last == "":
		if _, _, why := parseAnswer("", out.buf.Bytes()); errors.As(why, new(refusal)) {
			return nil, fmt.Errorf("%w: %w", err, why)
		}
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w%s", err, last)
	}
	return out.buf.Bytes(), nil
}

// programEnvironment is what a program may need to reach an API. The rest of the agent's is not its business; secrets
// are for it to read from a file.
func programEnvironment(of []string) []string {
	needed := []string{"PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
	return slices.DeleteFunc(slices.Clone(of), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !slices.Contains(needed, strings.ToUpper(name))
	})
}

// refusal is what a program says that it could not do.
type refusal string

func (r refusal) Error() string { return string(r) }

// parseAnswer reads what a program wrote: one JSON object and no more. said reports whether it speaks of records.
func parseAnswer(zone string, text []byte) (recs []libdns.Record, said bool, err error) {
	var a programAnswer
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&a); err != nil {
		if len(bytes.TrimSpace(text)) == 0 {
			return nil, false, errors.New("it gave no answer")
		}
		return nil, false, fmt.Errorf("its answer cannot be read: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, false, errors.New("its answer is more than one JSON object; what is not the answer belongs on standard error")
	}
	if a.Error != "" {
		return nil, false, refusal(oneLine(a.Error))
	}
	for _, r := range a.Records {
		rec, err := r.record(zone)
		if err != nil {
			return nil, false, fmt.Errorf("its answer: %w", err)
		}
		recs = append(recs, rec)
	}
	return recs, a.Records != nil, nil
}

// record is libdns's type where we have a use for it, and the bare record where not. Somebody else's record that is odd
// is no reason not to keep ours.
func (r programRecord) record(zone string) (libdns.Record, error) {
	name := r.Name
	if strings.HasSuffix(name, ".") {
		name = libdns.RelativeName(name, zone)
	}
	if name == "" {
		name = "@"
	}
	typ := strings.ToUpper(r.Type)
	switch {
	case typ == "":
		return nil, fmt.Errorf("the record at %.80q has no type", r.Name)
	case r.TTL < 0 || r.TTL > maxRecordTTL:
		return nil, fmt.Errorf("the record at %.80q has a ttl of %d, which is in seconds", r.Name, r.TTL)
	case len(r.Name) > 255 || len(r.Data) > maxRecordData:
		return nil, fmt.Errorf("the record at %.80q is longer than a record can be", r.Name)
	}
	ttl := time.Duration(r.TTL) * time.Second
	switch typ {
	case "A", "AAAA":
		if ip, err := netip.ParseAddr(r.Data); err == nil && ip.Is4() == (typ == "A") && ip.Zone() == "" {
			return libdns.Address{Name: name, TTL: ttl, IP: ip}, nil
		}
	case "TXT":
		return libdns.TXT{Name: name, TTL: ttl, Text: r.Data}, nil
	}
	return libdns.RR{Name: name, TTL: ttl, Type: typ, Data: r.Data}, nil
}

// answerBuffer keeps an answer up to its bound, and has the program stopped beyond. It is no more than an io.Writer, or
// io.Copy would find a way around it.
type answerBuffer struct {
	buf  bytes.Buffer
	cut  bool
	over func()
}

func (b *answerBuffer) Write(p []byte) (int, error) {
	if b.cut = b.cut || b.buf.Len()+len(p) > maxProgramAnswer; b.cut {
		b.over()
		return len(p), nil
	}
	return b.buf.Write(p)
}

// narrator logs what a program writes to its standard error, line by line, up to a bound.
type narrator struct {
	log   func(text string)
	line  []byte
	last  string // that said something
	lines int
}

func (n *narrator) Write(p []byte) (int, error) {
	for _, b := range p {
		switch {
		case b == '\n':
			n.flush()
		case len(n.line) < maxProgramLine:
			n.line = append(n.line, b)
		}
	}
	return len(p), nil
}

func (n *narrator) flush() {
	text := oneLine(string(n.line))
	if n.line = n.line[:0]; text == "" {
		return
	}
	n.last = text
	if n.lines++; n.lines <= maxProgramLines {
		n.log(text)
	}
}

// end says what was left out, and gives the last line as the end of an error's text.
func (n *narrator) end() string {
	n.flush()
	if more := n.lines - maxProgramLines; more > 0 {
		n.log(fmt.Sprintf("%d lines more", more))
	}
	if n.last == "" {
		return ""
	}
	return ": " + n.last
}

// oneLine is text that is fit for a log and a terminal.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return strings.TrimSpace(fmt.Sprintf("%.*s", maxProgramLine, text))
}
