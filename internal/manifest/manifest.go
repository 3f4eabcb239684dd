// Package manifest is a node's state file, cluster_state.json: what the node must run, so that it
// can start again before the cluster's records can be read. It encodes, loads and saves. It decides
// nothing (see plan), holds no secret, and is never the authority: the records are.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// FileName is the state file's name in a node's data directory.
const FileName = "cluster_state.json"

// Version is the schema that this package writes. A file of another version is refused.
const Version = 1

// maxFile bounds the file, in bytes. A namespace takes about 250.
const maxFile = 4 << 20

// ErrDamaged is wrapped by Load's error for a file that is there and cannot be used. The file is
// left as it is: damage is not absence.
var ErrDamaged = errors.New("the cluster state file is damaged; it was kept as it is")

// State is what one node must run.
type State struct {
	Version    int          `json:"version"`
	NodeID     orama.NodeID `json:"node_id"`
	Revision   int64        `json:"revision"` // of the records that it was computed from
	Namespaces []Namespace  `json:"namespaces"`
}

// Namespace is one tenant's part of a node. Ports holds the blocks of both roles.
type Namespace struct {
	Name    orama.NamespaceID `json:"name"`
	HasSFU  bool              `json:"has_sfu"`
	HasTURN bool              `json:"has_turn"`
	Ports   orama.Ports       `json:"ports"`
}

// HasTURN reports whether any namespace has TURN here, so that the host's TURN process is needed.
func (s State) HasTURN() bool {
	for _, n := range s.Namespaces {
		if n.HasTURN {
			return true
		}
	}
	return false
}

// Load reads the state file. A file that is not there gives orama.ErrNotFound; one that cannot be
// used gives an error that names it and wraps ErrDamaged, or the reading's own error.
func Load(path string) (State, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, orama.ErrNotFound
	}
	if err != nil {
		return State{}, fmt.Errorf("cluster state: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return State{}, fmt.Errorf("cluster state: %w", err)
	}
	s, err := Parse(text)
	if err != nil {
		return State{}, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return s, nil
}

// Parse decodes and checks a state file's text.
func Parse(text []byte) (State, error) {
	if len(text) > maxFile {
		return State{}, fmt.Errorf("larger than %d bytes", maxFile)
	}
	var s State
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&s); err != nil {
		return State{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return State{}, errors.New("something follows the state")
	}
	if err := s.validate(); err != nil {
		return State{}, err
	}
	return s, nil
}

func (s State) validate() error {
	if s.Version != Version {
		return fmt.Errorf("version %d, not %d", s.Version, Version)
	}
	if s.NodeID == "" {
		return errors.New("no node_id")
	}
	if s.Revision < 0 {
		return fmt.Errorf("revision %d is negative", s.Revision)
	}
	seen := map[orama.NamespaceID]bool{}
	for _, n := range s.Namespaces {
		if seen[n.Name] {
			return fmt.Errorf("namespace %q is there twice", n.Name)
		}
		seen[n.Name] = true
		if err := n.validate(); err != nil {
			return fmt.Errorf("namespace %q: %w", n.Name, err)
		}
	}
	return nil
}

func (n Namespace) validate() error {
	if err := auth.ValidNamespace(string(n.Name)); err != nil {
		return err
	}
	for _, p := range []struct {
		name   string
		needed bool
		block  orama.PortRange
	}{
		{"relay", n.HasTURN, n.Ports.Relay},
		{"signal", n.HasSFU, n.Ports.Signal},
		{"media", n.HasSFU, n.Ports.Media},
	} {
		if err := validBlock(p.needed, p.block); err != nil {
			return fmt.Errorf("%s ports: %w", p.name, err)
		}
	}
	return nil
}

func validBlock(needed bool, b orama.PortRange) error {
	switch {
	case !needed && b != orama.PortRange{}:
		return errors.New("given without their role")
	case !needed:
		return nil
	case b.First == 0 || b.Count == 0:
		return errors.New("missing")
	case int(b.First)+int(b.Count) > 1<<16:
		return errors.New("beyond 65535")
	}
	return nil
}

// Save replaces the state file in one step, readable by its owner alone: after a crash at any
// moment either the old file or the new one is there, whole.
func Save(path string, s State) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("cluster state not saved: %w", err)
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("cluster state not saved: %w", err)
	}
	if err := replace(path, append(text, '\n')); err != nil {
		return fmt.Errorf("cluster state not saved: %w", err)
	}
	return nil
}

func replace(path string, text []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // CreateTemp makes it 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // not there any more when all went well
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the rename itself durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
