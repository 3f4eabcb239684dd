package supervisor

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Values of ExecMainCode: si_code of SIGCHLD, waitid(2).
const (
	exitedCode = 1
	killedCode = 2
	dumpedCode = 3
)

// detail reads what systemd knows of one service. What it does not say is left out.
func detail(ctx context.Context, conn *dbus.Conn, name string) UnitState {
	d := UnitState{Name: strings.TrimSuffix(name, serviceSuffix)}
	d.PID = int(property[uint32](ctx, conn, name, "MainPID"))
	d.Restarts = int(property[uint32](ctx, conn, name, "NRestarts"))
	if d.PID > 0 {
		d.Since = moment(property[uint64](ctx, conn, name, "ExecMainStartTimestamp"))
		return d
	}
	d.Since = moment(property[uint64](ctx, conn, name, "ExecMainExitTimestamp"))
	d.LastExit = lastExit(ctx, conn, name)
	return d
}

// lastExit words how a service's last process ended; "" when none did.
func lastExit(ctx context.Context, conn *dbus.Conn, name string) string {
	text := ""
	status := property[int32](ctx, conn, name, "ExecMainStatus")
	switch property[int32](ctx, conn, name, "ExecMainCode") {
	case exitedCode:
		text = fmt.Sprintf("exit %d", status)
	case killedCode, dumpedCode:
		text = "signal: " + syscall.Signal(status).String()
	}
	// Such as "watchdog", "timeout", "start-limit-hit": why systemd ended it. "signal" and "exit-code" say nothing more.
	switch result := property[string](ctx, conn, name, "Result"); result {
	case "", "success", "signal", "exit-code", "core-dump":
	default:
		text = strings.TrimPrefix(text+", "+printable(result, 100), ", ")
	}
	return text
}

func property[T any](ctx context.Context, conn *dbus.Conn, name, prop string) T {
	var zero T
	p, err := conn.GetServicePropertyContext(ctx, name, prop)
	if err != nil {
		return zero
	}
	v, ok := p.Value.Value().(T)
	if !ok {
		return zero
	}
	return v
}

// moment is a time of systemd's, in microseconds since 1970; 0 is never.
func moment(us uint64) time.Time {
	if us == 0 || us > 1<<62 {
		return time.Time{}
	}
	return time.UnixMicro(int64(us)) //nolint:gosec // checked above
}

// describe words what is wrong with a unit, for an error.
func (s *Systemd) describe(ctx context.Context, name string) string {
	conn, err := s.bus()
	if err != nil {
		return "unknown"
	}
	text := lastExit(ctx, conn, name)
	if status := printable(property[string](ctx, conn, name, "StatusText"), 200); status != "" {
		text = strings.TrimPrefix(text+"; "+status, "; ")
	}
	if text == "" {
		return "no process was started"
	}
	return text
}
