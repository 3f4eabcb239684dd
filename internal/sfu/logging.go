package sfu

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// pionLogs gives pion's messages to slog, all at debug level: most are caused by what strangers
// send, and what matters to an operator the SFU says itself.
type pionLogs struct{ log *slog.Logger }

// NewLogger is logging.LoggerFactory's.
func (p pionLogs) NewLogger(scope string) logging.LeveledLogger {
	return pionLog{p.log.With("pion", scope)}
}

type pionLog struct{ log *slog.Logger }

func (p pionLog) say(format string, args ...any) {
	if p.log.Enabled(context.Background(), slog.LevelDebug) {
		p.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (p pionLog) Trace(string)                     {}
func (p pionLog) Tracef(string, ...any)            {}
func (p pionLog) Debug(string)                     {}
func (p pionLog) Debugf(string, ...any)            {}
func (p pionLog) Info(msg string)                  { p.say("%s", msg) }
func (p pionLog) Infof(format string, args ...any) { p.say(format, args...) }
func (p pionLog) Warn(msg string)                  { p.say("%s", msg) }
func (p pionLog) Warnf(format string, args ...any) { p.say(format, args...) }
func (p pionLog) Error(msg string)                 { p.say("%s", msg) }
func (p pionLog) Errorf(f string, args ...any)     { p.say(f, args...) }
