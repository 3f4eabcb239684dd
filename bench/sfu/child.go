package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/role"
)

// The servers under test that this program can be.
const (
	kindSFU   = "sfu"
	kindTURN  = "turn"
	kindStock = "stock"
)

// serve is a server under test until it is killed: of ours the role itself, as `orama sfu run` and `orama turn run`
// have it. Its arguments are its kind, its control socket (of stock, a file with its specification) and where profiles go.
func serve(args []string) error {
	if len(args) != 3 {
		return errors.New("serve KIND CONTROL PROFILES")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if args[2] != "" {
		go profiles(ctx, args[2])
	}
	unit := role.Unit{Control: args[1], Drain: time.Second, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	switch args[0] {
	case kindSFU:
		return role.SFU(ctx, namespace, unit)
	case kindTURN:
		return role.TURN(ctx, unit, false, nil)
	case kindStock:
		text, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		var spec plan.SFUSpec
		if err := json.Unmarshal(text, &spec); err != nil {
			return err
		}
		return stockSFU(ctx, spec)
	}
	return fmt.Errorf("no server %q", args[0])
}

// profiles writes a CPU profile from one SIGUSR1 to the next, the allocations before and after, and what goroutines there are then.
func profiles(ctx context.Context, prefix string) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
		}
		if err := profile(ctx, asked, prefix); err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
		}
	}
}

func profile(ctx context.Context, asked <-chan os.Signal, prefix string) error {
	if err := allocations(prefix + ".allocs-before.pprof"); err != nil {
		return err
	}
	cpu, err := os.Create(filepath.Clean(prefix + ".cpu.pprof"))
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-asked:
	}
	pprof.StopCPUProfile()
	return errors.Join(cpu.Close(), allocations(prefix+".allocs.pprof"), write("goroutine", prefix+".goroutines.pprof"))
}

// allocations writes those since the process began. They are in the profile two collections later.
func allocations(path string) error {
	runtime.GC()
	runtime.GC()
	return write("allocs", path)
}

func write(profile, path string) error {
	f, err := os.Create(filepath.Clean(path))
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup(profile).WriteTo(f, 0), f.Close())
}
