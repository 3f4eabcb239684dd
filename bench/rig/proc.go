package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what became of the servers' core and of a server, since some beginning.
type Usage struct {
	CPU  time.Duration // the server ran: user and system, all threads
	Idle time.Duration // nothing ran
}

func (u Usage) Since(before Usage) Usage { return Usage{u.CPU - before.CPU, u.Idle - before.Idle} }

// Taken is the part of a span, in percent, that the core spent on anything but the server: other work of the
// machine, and what the hypervisor kept.
func (u Usage) Taken(span float64) float64 {
	return max(0, 100*(1-float64(u.CPU+u.Idle)/span))
}

// UsageOf looks at a process and at the core it has.
func UsageOf(pid, core int) (u Usage, err error) {
	if u.CPU, err = CPUOf(pid); err != nil {
		return u, err
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	u.Idle, err = parseIdle(string(text), core)
	return u, err
}

// CPUOf sums the threads' schedstat, which counts in nanoseconds; /proc/PID/stat counts the same time in ticks of
// 10 ms. Of a thread that ended nothing is left; neither server ends threads under load.
func CPUOf(pid int) (sum time.Duration, err error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(paths) == 0 {
		return 0, fmt.Errorf("process %d is gone: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		one, err := parseSchedstat(string(text))
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

// parseSchedstat gives the first of "time on a core, time in its queue, times scheduled", in nanoseconds.
func parseSchedstat(text string) (time.Duration, error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return 0, fmt.Errorf("schedstat of %d fields", len(fields))
	}
	ns, err := strconv.ParseInt(fields[0], 10, 64)
	return time.Duration(ns), err
}

// parseIdle finds the time that a core had nothing to do in /proc/stat, which counts it in ticks of 10 ms: user,
// nice, system, idle, iowait.
func parseIdle(text string, core int) (time.Duration, error) {
	name := "cpu" + strconv.Itoa(core)
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[0] != name {
			continue
		}
		idle, err1 := strconv.ParseInt(fields[4], 10, 64)
		iowait, err2 := strconv.ParseInt(fields[5], 10, 64)
		return time.Duration(idle+iowait) * 10 * time.Millisecond, errors.Join(err1, err2)
	}
	return 0, fmt.Errorf("no %s in /proc/stat", name)
}

// ResidentOf is how much memory of a process is in RAM, in bytes. smaps_rollup walks the pages; the cheaper figures
// of statm may be off by 64 pages for every core.
func ResidentOf(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	return parseResident(string(text))
}

func parseResident(text string) (int64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "Rss:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("no Rss in smaps_rollup")
}

// Machine names the processor and the kernel.
func Machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return model
	}
	return model + ", Linux " + strings.TrimSpace(string(release))
}
