package role

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/enroll"
)

// roster is the nodes of the records, which a test changes.
type roster struct {
	enroll.Records
	mu    sync.Mutex
	nodes []orama.Node
}

func (r *roster) Nodes(context.Context) ([]orama.Node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes, nil
}

func (r *roster) set(n ...orama.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = n
}

// Nobody is let in before the records hold this node with its key: a joiner would be given this node's own address.
func TestNobodyJoinsANodeThatIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		self := orama.Node{ID: "node-1", MeshIP: netip.MustParseAddr("10.0.0.1")}
		r := &roster{}
		e := &enrolment{cfg: config.Node{ID: self.ID, MeshIP: self.MeshIP, Mesh: config.Mesh{WireGuard: "auto"}}, records: r}
		done := make(chan error, 1)
		go func() { done <- e.known(t.Context()) }()
		for _, nodes := range [][]orama.Node{nil, {{ID: "node-2", MeshIP: self.MeshIP, MeshKey: "k"}}, {self}} {
			r.set(nodes...)
			time.Sleep(time.Minute)
			require.Empty(t, done, "%v", nodes)
		}
		self.MeshKey = "k"
		r.set(self)
		time.Sleep(2 * knownEvery)
		synctest.Wait()
		require.NoError(t, <-done)
	})
}
