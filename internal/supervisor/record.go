package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const recordSuffix = ".json"

// markerName is the variable that marks a unit's process, with the path of its record as value.
const markerName = "ORAMA_UNIT"

// record is DIR/NAME.json: which process a unit has.
type record struct {
	PID       int       `json:"pid"`
	StartTime uint64    `json:"start_time"` // in clock ticks since boot, /proc/PID/stat field 22
	BootID    string    `json:"boot_id"`
	StartedAt time.Time `json:"started_at"`
	Log       string    `json:"log,omitempty"`
	LogOffset int64     `json:"log_offset,omitempty"` // bytes
}

func (c *Children) path(name string) string { return filepath.Join(c.dir, name+recordSuffix) }

func (c *Children) marker(name string) string { return markerName + "=" + c.path(name) }

// environment is ours, with the unit's marker instead of our own.
func (c *Children) environment(name string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, markerName+"=") })
	return append(env, c.marker(name))
}

func (c *Children) record(name string, p *process) error {
	s, err := readStat(p.pid)
	if err != nil {
		return err
	}
	text, err := json.Marshal(record{PID: p.pid, StartTime: s.startTime, BootID: c.boot, StartedAt: p.started, Log: p.log, LogOffset: p.logOffset})
	if err != nil {
		return err
	}
	tmp := c.path(name) + ".tmp"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.path(name))
}

func (c *Children) forget(name string) error {
	if err := os.Remove(c.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("supervisor: %w", err)
	}
	return nil
}

// recorded lists the names that have a record.
func (c *Children) recorded() []string {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), recordSuffix); ok && namePattern.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// alive reads a unit's record and reports whether its process lives: the same number, start and boot. A record that
// cannot be read proves nothing.
func (c *Children) alive(name string) (record, bool) {
	var r record
	text, err := os.ReadFile(c.path(name))
	if err != nil || json.Unmarshal(text, &r) != nil || r.PID <= 1 || r.BootID != c.boot || c.boot == "" {
		return record{}, false
	}
	s, err := readStat(r.PID)
	return r, err == nil && s.startTime == r.StartTime && !s.dead()
}

// find gives a unit's living process, watched, or nil.
func (c *Children) find(name string) *process {
	r, ok := c.alive(name)
	if !ok {
		if r, ok = c.unrecorded(name); !ok {
			return nil
		}
	}
	p, err := hold(r.PID)
	if err != nil {
		return nil // ended meanwhile
	}
	// Only now is it sure that the descriptor is of the process that was looked at.
	if s, err := readStat(r.PID); err != nil || s.startTime != r.StartTime || s.dead() {
		_ = p.fd.Close()
		return nil
	}
	p.started, p.log, p.logOffset = r.StartedAt, r.Log, r.LogOffset
	if err := c.record(name, p); err != nil {
		c.log.Warn("unit's process cannot be recorded", "unit", name, "pid", p.pid, "error", err)
	}
	go p.watch()
	return p
}

// unrecorded looks for a process that bears the unit's marker and leads a session, as our children do: one
// whose supervisor was killed before it could write the record, or that has taken the place of the one that we started.
func (c *Children) unrecorded(name string) (record, bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return record{}, false
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		s, err := readStat(pid)
		if err != nil || s.session != pid || s.dead() {
			continue
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return string(v) == c.marker(name) }) {
			return record{PID: pid, StartTime: s.startTime, BootID: c.boot, StartedAt: time.Now()}, true
		}
	}
	return record{}, false
}

// stat is what is needed of /proc/PID/stat (proc_pid_stat(5)).
type stat struct {
	state     byte
	session   int
	startTime uint64
}

// dead is true of a process that has ended and was not reaped yet.
func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(text))
}

// parseStat reads from behind the command's name, which is in parentheses and may hold anything.
func parseStat(text string) (stat, error) {
	i := strings.LastIndexByte(text, ')')
	fields := strings.Fields(text[i+1:])
	if i < 0 || len(fields) < 20 || len(fields[0]) != 1 {
		return stat{}, errors.New("supervisor: /proc stat of another form")
	}
	session, err := strconv.Atoi(fields[3]) // field 6
	if err != nil {
		return stat{}, err
	}
	start, err := strconv.ParseUint(fields[19], 10, 64) // field 22
	if err != nil {
		return stat{}, err
	}
	return stat{state: fields[0][0], session: session, startTime: start}, nil
}

func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
