package mesh_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/mesh"
)

// The test's own program also plays the processes of a host: MESH_ROLE says which.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch os.Getenv("MESH_ROLE") {
	case "device":
		exit(mesh.RunDevice(ctx, os.Getenv("MESH_INTERFACE"), log))
	case "agent":
		exit(playAgent(ctx, log))
	default:
		stop()
		goleak.VerifyTestMain(m)
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// playAgent is what a node's agent does about the mesh. The records are a directory with a file for each node. A line
// on standard input has it change its key; it answers on standard output.
func playAgent(ctx context.Context, log *slog.Logger) error {
	id, dir := os.Getenv("MESH_ID"), os.Getenv("MESH_DIR")
	address := netip.MustParsePrefix(os.Getenv("MESH_ADDRESS"))
	m, err := mesh.Open(ctx, mesh.Options{Interface: os.Getenv("MESH_INTERFACE"), Address: address,
		PrivateKeyFile: filepath.Join(dir, id+".key"), Mode: mesh.Mode(os.Getenv("MESH_MODE")), Log: log})
	if err != nil {
		return err
	}
	fmt.Println("open")
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			fmt.Println("rotated", m.Rotate(ctx))
		}
	}()
	go func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			n := orama.Node{ID: orama.NodeID(id), MeshIP: address.Addr(), MeshKey: m.PublicKey(), MeshEndpoint: os.Getenv("MESH_ENDPOINT")}
			if err := putRecord(dir, n); err != nil {
				log.Error("record", "error", err)
			}
			<-tick.C
		}
	}()
	return m.Run(ctx, mesh.Loop{Self: orama.NodeID(id), Nodes: func(context.Context) ([]orama.Node, error) { return getRecords(dir) },
		PeersFile: filepath.Join(dir, id+".peers")})
}

func putRecord(dir string, n orama.Node) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, string(n.ID)+".tmp")
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, string(n.ID)+".node"))
}

func getRecords(dir string) ([]orama.Node, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.node"))
	if err != nil {
		return nil, err
	}
	var out []orama.Node
	for _, f := range files {
		text, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var n orama.Node
		if err := json.Unmarshal(text, &n); err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}
