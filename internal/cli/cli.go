// Package cli is the command tree and its output: it reads flags, calls the packages that do
// the work, and shows what they saw to people or, with --json, to programs. It decides nothing else.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"orama.network/orama"
)

// Exit codes of every command.
const (
	exitOK          = 0
	exitFailed      = 1 // a check failed, or anything without a code of its own
	exitUsage       = 2
	exitAuth        = 3
	exitNotFound    = 4
	exitUnavailable = 5
)

// app is what the commands share.
type app struct {
	out, err io.Writer
	json     bool
	dataDir  string
	env      string
}

// Main runs the command line and gives the exit code. Ctrl-C and SIGTERM end it in order.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, args, os.Stdout, os.Stderr)
}

// Run is Main with its surroundings given.
func Run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	a.json = a.json || slices.Contains(args, "--json") // a mistake in the flags stops their parsing
	if !errors.Is(err, errChecks) {                    // which has been said
		a.fail(err)
	}
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "orama",
		Short: "Voice, video and data for any application, on machines you own",
		Long: `Orama turns Linux hosts into a multi-tenant WebRTC cloud. A tenant is a namespace;
a namespace with WebRTC has TURN relays and SFUs that only those relays can reach.`,
		Example: `  orama up                                        start a cluster on this machine
  orama namespace create myapp                    make a namespace and its owner key
  orama namespace enable webrtc --namespace myapp give it relays and SFUs
  orama token --namespace myapp --user alice      let a user in`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print JSON for programs")
	f.StringVar(&a.dataDir, "data-dir", "", "directory of the local cluster (default "+defaultDataDirText+")")
	f.StringVar(&a.env, "env", localEnv, "cluster to talk to: \"local\" is the one on this machine, 'orama env' knows others")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	return group(root, a.up(), a.namespace(), a.room(), a.token(), a.node(), a.monitor(), a.inspector(), a.load(), a.environments(), a.operatorKey(),
		a.mesh(), a.turn(), a.sfu(), a.firewall(), a.version())
}

const defaultDataDirText = "~/.local/share/orama/local"

// dir is the directory of the cluster that the flags name.
func (a *app) dir() (string, error) {
	if a.env != localEnv {
		return "", orama.Errorf(orama.KindInvalid, "not_local", "environment %q is a cluster elsewhere; this is for one on this machine", a.env)
	}
	if a.dataDir != "" {
		return a.dataDir, nil
	}
	if base := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "orama", "local"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", orama.Errorf(orama.KindInvalid, "no_home", "this user has no home directory; name one with --data-dir")
	}
	return filepath.Join(home, ".local", "share", "orama", "local"), nil
}

// usageError is a mistake in the command line.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }

func usage(c *cobra.Command, err error) error { return &usageError{c.CommandPath(), err} }

// args makes cobra's argument checks usage errors.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if err := check(c, given); err != nil {
			return usage(c, err)
		}
		return nil
	}
}

// fail says what went wrong and what to do next: once, in the form that was asked for.
func (a *app) fail(err error) {
	if a.json {
		var e *orama.Error
		if !errors.As(err, &e) {
			e = &orama.Error{Kind: orama.KindInternal, Code: "failed", Message: err.Error()}
			if exitCode(err) == exitUsage {
				e.Kind, e.Code = orama.KindInvalid, "usage"
			}
		}
		a.print(map[string]any{"error": map[string]string{"kind": string(e.Kind), "code": e.Code, "message": err.Error()}})
		return
	}
	fmt.Fprintf(a.err, "orama: %v\n", err)
	var u *usageError
	if errors.As(err, &u) {
		fmt.Fprintf(a.err, "Try '%s --help'.\n", u.command)
	}
}

func exitCode(err error) int {
	var u *usageError
	if errors.As(err, &u) {
		return exitUsage
	}
	switch orama.KindOf(err) {
	case orama.KindInvalid:
		return exitUsage
	case orama.KindUnauthenticated, orama.KindForbidden:
		return exitAuth
	case orama.KindNotFound:
		return exitNotFound
	case orama.KindUnavailable, orama.KindLimited:
		return exitUnavailable
	default:
		return exitFailed
	}
}

// print writes one line of JSON.
func (a *app) print(v any) {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.Encode(v) //nolint:errcheck // nobody reads any more
}

func (a *app) say(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }

// logger writes a long-running process's log: to standard error, for the journal or a file.
func (a *app) logger(level slog.Level) *slog.Logger {
	if a.json {
		return slog.New(slog.NewJSONHandler(a.err, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}
