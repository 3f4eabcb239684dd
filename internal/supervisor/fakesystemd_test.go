package supervisor

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
)

const (
	managerPath  = godbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface = "org.freedesktop.systemd1.Manager"
)

// fakeSystemd answers on a bus of its own as systemd's manager does. What a unit does when it is started
// or stopped is the test's to say.
type fakeSystemd struct {
	conn *godbus.Conn

	mu    sync.Mutex // guards the following fields
	units map[string]*fakeUnit
	calls []string // such as "StartUnit orama-turn.service"
	jobs  int
}

type fakeUnit struct {
	active     string
	props      map[string]any // of the service interface
	result     string         // of its start job; "" is "done"
	refuse     string         // the D-Bus error that starting gives
	stubborn   bool           // ends by SIGKILL alone
	failedStop bool           // counts as failed once it was stopped
	stopping   godbus.ObjectPath
}

// newFakeSystemd starts a bus with a manager on it, and a supervisor that speaks to it.
func newFakeSystemd(t *testing.T) (*fakeSystemd, *Systemd) {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is not installed (package dbus)")
	}
	address := "unix:path=" + filepath.Join(t.TempDir(), "bus")
	cmd := exec.Command(daemon, "--session", "--nofork", "--address="+address, "--print-address=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ready, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "the bus did not start")
	require.Contains(t, ready, "unix:")

	f := &fakeSystemd{units: map[string]*fakeUnit{}}
	f.conn, err = godbus.Connect(address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.conn.Close() })
	require.NoError(t, f.conn.Export(manager{f}, managerPath, managerIface))
	require.NoError(t, f.conn.ExportSubtree(properties{f}, managerPath+"/unit", "org.freedesktop.DBus.Properties"))
	reply, err := f.conn.RequestName("org.freedesktop.systemd1", godbus.NameFlagDoNotQueue)
	require.NoError(t, err)
	require.Equal(t, godbus.RequestNameReplyPrimaryOwner, reply)

	s := NewSystemd(slog.New(slog.DiscardHandler), "orama-turn", "orama-namespace-*@*")
	s.dial = func() (*dbus.Conn, error) {
		return dbus.NewConnection(func() (*godbus.Conn, error) { return godbus.Connect(address, godbus.WithContext(context.Background())) })
	}
	t.Cleanup(s.Close)
	return f, s
}

// unit has the test say what a unit is like.
func (f *fakeSystemd) unit(name string, change func(*fakeUnit)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.unitLocked(name))
}

func (f *fakeSystemd) unitLocked(name string) *fakeUnit {
	u := f.units[name]
	if u == nil {
		u = &fakeUnit{active: "inactive", props: map[string]any{}}
		f.units[name] = u
	}
	return u
}

// called lists the calls that began with prefix.
func (f *fakeSystemd) called(prefix string) (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if strings.HasPrefix(c, prefix) {
			out = append(out, c)
		}
	}
	return out
}

// manager is what is exported of a fakeSystemd.
type manager struct{ f *fakeSystemd }

func (m manager) StartUnit(name, _ string) (godbus.ObjectPath, *godbus.Error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "StartUnit "+name)
	u := m.f.unitLocked(name)
	if u.refuse != "" {
		return "", godbus.NewError(u.refuse, []any{"refused"})
	}
	if u.result == "" || u.result == "done" {
		u.active, u.props["MainPID"] = "active", uint32(4711)
	} else {
		u.active = "failed"
	}
	job := m.f.jobLocked()
	if u.result != "never" {
		go m.f.finish(job, name, u.result)
	}
	return job, nil
}

func (m manager) StopUnit(name, _ string) (godbus.ObjectPath, *godbus.Error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "StopUnit "+name)
	u := m.f.units[name]
	if u == nil {
		return "", godbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not loaded."})
	}
	job := m.f.jobLocked()
	if u.stubborn {
		u.active, u.stopping = "deactivating", job
		return job, nil
	}
	u.active = "inactive"
	if u.failedStop {
		u.active = "failed"
	}
	go m.f.finish(job, name, "done")
	return job, nil
}

func (m manager) KillUnit(name, _ string, signal int32) *godbus.Error {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "KillUnit "+name)
	if u := m.f.units[name]; u != nil && signal == 9 && u.stopping != "" {
		u.active = "failed"
		go m.f.finish(u.stopping, name, "done")
	}
	return nil
}

func (m manager) ResetFailedUnit(name string) *godbus.Error {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "ResetFailedUnit "+name)
	if u := m.f.units[name]; u != nil && u.active == "failed" {
		u.active = "inactive"
	}
	return nil
}

// listed is systemd's a(ssssssouso).
type listed struct {
	Name, Description, Load, Active, Sub, Followed string
	Path                                           godbus.ObjectPath
	JobID                                          uint32
	JobType                                        string
	JobPath                                        godbus.ObjectPath
}

func (m manager) ListUnitsByPatterns(_, patterns []string) ([]listed, *godbus.Error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.f.calls = append(m.f.calls, "ListUnitsByPatterns")
	out := []listed{}
	for name, u := range m.f.units {
		for _, p := range patterns {
			if ok, _ := path.Match(p, name); ok {
				out = append(out, listed{Name: name, Load: "loaded", Active: u.active, Path: managerPath, JobPath: "/"})
				break
			}
		}
	}
	return out, nil
}

func (f *fakeSystemd) jobLocked() godbus.ObjectPath {
	f.jobs++
	return managerPath + godbus.ObjectPath("/job/"+strings.Repeat("1", f.jobs))
}

func (f *fakeSystemd) finish(job godbus.ObjectPath, name, result string) {
	if result == "" {
		result = "done"
	}
	_ = f.conn.Emit(managerPath, managerIface+".JobRemoved", uint32(1), job, name, result)
}

// properties answers for the units' objects.
type properties struct{ f *fakeSystemd }

func (p properties) Get(msg godbus.Message, _, name string) (godbus.Variant, *godbus.Error) {
	object, _ := msg.Headers[godbus.FieldPath].Value().(godbus.ObjectPath)
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	for unit, u := range p.f.units {
		if dbus.PathBusEscape(unit) == path.Base(string(object)) && u.props[name] != nil {
			return godbus.MakeVariant(u.props[name]), nil
		}
	}
	return godbus.Variant{}, godbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{name})
}

func refusedDial() (*dbus.Conn, error) { return nil, errors.New("connection refused") }
