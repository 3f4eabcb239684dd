package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"orama.network/orama/bench/rig"
)

// The program is started three times over: outer builds what is missing and makes a network namespace, inner runs
// there and makes the load, and rig.StagePinned puts a process in its place and becomes it.
const stageInner = "inner"

// What outer tells inner beside the flags.
const (
	envDir  = "BENCH_TURN_DIR"
	envOurs = "BENCH_TURN_ORAMA"
	envCore = "BENCH_TURN_CORE" // the servers'
)

// outer is what the user starts.
func outer(given []string) (err error) {
	s, err := parse(given)
	if err != nil {
		return err
	}
	ctx, stop := stopped()
	defer stop()
	if _, err := exec.LookPath("turnserver"); err != nil {
		return errors.New("coturn is missing: tools/install (make deps) installs it")
	}
	generator, servers, err := rig.Cores()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-turn-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ours, err := build(ctx, s, dir)
	if err != nil {
		return err
	}
	env := []string{envDir + "=" + dir, envOurs + "=" + ours, envCore + "=" + strconv.Itoa(servers)}
	return rig.Again(ctx, generator, env, append([]string{stageInner}, given...)...)
}

// build gives the path of our server, made unless it was given.
func build(ctx context.Context, s settings, dir string) (string, error) {
	if s.null {
		return "", nil
	}
	if s.orama != "" {
		return filepath.Abs(s.orama)
	}
	out := filepath.Join(dir, "orama")
	fmt.Fprintln(os.Stderr, "bench-turn: building ./cmd/orama")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, "orama.network/orama/cmd/orama")
	cmd.Stderr = os.Stderr
	return out, cmd.Run()
}

// inner runs in the namespace.
func inner(given []string) error {
	s, err := parse(given)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the servers are killed with the thread that started them
	ctx, stop := stopped()
	defer stop()
	if err := rig.Loopback(); err != nil {
		return err
	}
	for _, path := range acceptsWhole {
		os.WriteFile(path, []byte("1"), 0) //nolint:errcheck // works without
	}
	core, err := strconv.Atoi(os.Getenv(envCore))
	if err != nil {
		return err
	}
	b, err := newBench(s, place{dir: os.Getenv(envDir), orama: os.Getenv(envOurs), core: core})
	if err != nil {
		return err
	}
	r, err := b.run(ctx)
	if err = errors.Join(err, b.close()); err != nil {
		return err
	}
	return r.print(os.Stdout, s.json)
}
