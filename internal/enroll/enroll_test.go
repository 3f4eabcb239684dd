package enroll_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/enroll"
	"orama.network/orama/internal/store"
)

func TestMain(m *testing.M) {
	// The SQL pool closes its connections on a goroutine of its own, after Close has returned.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("database/sql.(*DB).connectionOpener"))
}

const network = "10.0.0.0/28"

// member is a node that lets others in: the real records, real TLS on loopback.
type member struct {
	*enroll.Server
	id      *enroll.Identity
	records *store.Store
	address string

	mu  sync.Mutex // guards the following field
	now time.Time
}

func (m *member) clock() time.Time { m.mu.Lock(); defer m.mu.Unlock(); return m.now }

func (m *member) pass(d time.Duration) { m.mu.Lock(); defer m.mu.Unlock(); m.now = m.now.Add(d) }

func newMember(t *testing.T, change ...func(*enroll.Deps)) *member {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	records, err := store.Open(ctx, store.Options{File: filepath.Join(t.TempDir(), "cluster.db")})
	require.NoError(t, err)
	id, err := enroll.NewIdentity([32]byte{1, 2, 3})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m := &member{id: id, records: records, address: l.Addr().String(), now: time.Now().Truncate(time.Second)}
	d := enroll.Deps{Identity: id, Address: m.address, MeshCIDR: netip.MustParsePrefix(network), OwnMesh: true, Records: records,
		Offer: func() (enroll.Offer, error) {
			return enroll.Offer{Config: []byte("node: node-1\n"), Files: map[string][]byte{"cluster.key": []byte("secret")}}, nil
		},
		Now: m.clock, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&d)
	}
	m.Server = enroll.NewServer(d)
	require.NoError(t, records.Heartbeat(ctx, orama.Node{ID: "node-1", PublicIP: netip.MustParseAddr("203.0.113.1"), MeshIP: netip.MustParseAddr("10.0.0.1"),
		MeshKey: key(1), MeshEndpoint: "203.0.113.1:51820"}, m.now))
	done := make(chan error)
	go func() { done <- m.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, records.Close())
	})
	return m
}

func key(n byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{n}, 32)) }

func (m *member) invite(t *testing.T) enroll.Token {
	t.Helper()
	shown, expires, err := m.Invite(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, m.clock().Add(enroll.DefaultTTL), expires)
	token, err := enroll.ParseToken("  " + shown + "\n")
	require.NoError(t, err)
	return token
}

// joiner is host n.
func joiner(n byte) enroll.Request {
	return enroll.Request{Node: orama.NodeID(fmt.Sprintf("node-%d", n)), PublicIP: netip.AddrFrom4([4]byte{203, 0, 113, n}),
		MeshKey: key(n), MeshEndpoint: fmt.Sprintf("203.0.113.%d:51820", n)}
}

func code(err error) string {
	var e *orama.Error
	if err != nil && !asError(err, &e) {
		return err.Error()
	}
	if e == nil {
		return ""
	}
	return e.Code
}

func asError(err error, e **orama.Error) bool {
	o, ok := err.(*orama.Error) //nolint:errorlint // what enroll returns is not wrapped
	*e = o
	return ok
}

func TestANodeJoins(t *testing.T) {
	m := newMember(t)
	a, err := enroll.Join(t.Context(), m.invite(t), joiner(2))
	require.NoError(t, err)
	require.Equal(t, netip.MustParseAddr("10.0.0.2"), a.MeshIP)
	require.Equal(t, []byte("secret"), a.Files["cluster.key"])
	require.Len(t, a.Nodes, 1)
	require.Equal(t, key(1), a.Nodes[0].MeshKey)
	nodes, err := m.records.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, nodes, 2)
	require.Equal(t, key(2), nodes[1].MeshKey)
	require.True(t, nodes[1].Heartbeat.IsZero())
}

func TestATokenWorksOnce(t *testing.T) {
	m := newMember(t)
	token := m.invite(t)
	_, err := enroll.Join(t.Context(), token, joiner(2))
	require.NoError(t, err)
	_, err = enroll.Join(t.Context(), token, joiner(3))
	require.Equal(t, "join_token_used", code(err))
	require.ErrorContains(t, err, "node-2")

	// The same at once.
	token = m.invite(t)
	var g errgroup.Group
	var mu sync.Mutex
	var outcomes []string
	for n := byte(3); n < 11; n++ {
		g.Go(func() error {
			_, err := enroll.Join(t.Context(), token, joiner(n))
			mu.Lock()
			defer mu.Unlock()
			outcomes = append(outcomes, code(err))
			return nil
		})
	}
	require.NoError(t, g.Wait())
	counts := map[string]int{}
	for _, o := range outcomes {
		counts[o]++
	}
	require.Equal(t, map[string]int{"": 1, "join_token_used": 7}, counts)
}

func TestJoinsAtOnceGetDifferentAddresses(t *testing.T) {
	m := newMember(t)
	var g errgroup.Group
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	for n := byte(2); n < 10; n++ {
		token := m.invite(t)
		g.Go(func() error {
			a, err := enroll.Join(t.Context(), token, joiner(n))
			mu.Lock()
			defer mu.Unlock()
			seen[a.MeshIP] = true
			return err
		})
	}
	require.NoError(t, g.Wait())
	require.Len(t, seen, 8)
	for n := byte(2); n < 10; n++ {
		require.True(t, seen[netip.AddrFrom4([4]byte{10, 0, 0, n})], "the lowest free addresses are given")
	}
}

func TestTokensThatDoNotWork(t *testing.T) {
	m := newMember(t)
	token := m.invite(t)
	m.pass(enroll.DefaultTTL)
	_, err := enroll.Join(t.Context(), token, joiner(2))
	require.Equal(t, "join_token_expired", code(err))

	token = enroll.NewToken(m.id.Fingerprint, m.address)
	_, err = enroll.Join(t.Context(), token, joiner(2))
	require.Equal(t, "join_token_unknown", code(err))

	_, _, err = m.Invite(t.Context(), 8*24*time.Hour)
	require.Equal(t, "invalid_ttl", code(err))
	nodes, err := m.records.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, nodes, 1)
}

func TestJoinersThatAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name, code string
		change     func(*enroll.Request)
	}{
		{"a node of that name", "node_exists", func(q *enroll.Request) { q.Node = "node-1" }},
		{"replacing a node that lives", "node_exists", func(q *enroll.Request) { q.Node, q.Replace = "node-1", true }},
		{"a key of another", "mesh_key_exists", func(q *enroll.Request) { q.MeshKey = key(1) }},
		{"an endpoint of another", "mesh_endpoint_exists", func(q *enroll.Request) { q.MeshEndpoint = "203.0.113.1:51820" }},
		{"an address of another", "mesh_ip_exists", func(q *enroll.Request) { q.MeshIP = netip.MustParseAddr("10.0.0.1") }},
		{"an address outside", "invalid_join", func(q *enroll.Request) { q.MeshIP = netip.MustParseAddr("10.9.0.1") }},
		{"no key", "invalid_join", func(q *enroll.Request) { q.MeshKey, q.MeshEndpoint = "", "" }},
		{"a bad name", "invalid_join", func(q *enroll.Request) { q.Node = "Node 2" }},
		{"a bad endpoint", "invalid_join", func(q *enroll.Request) { q.MeshEndpoint = "nowhere" }},
		{"no public address", "invalid_join", func(q *enroll.Request) { q.PublicIP = netip.Addr{} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMember(t)
			token, q := m.invite(t), joiner(2)
			tc.change(&q)
			_, err := enroll.Join(t.Context(), token, q)
			require.Equal(t, tc.code, code(err))
			// A refusal does not use the token up.
			_, err = enroll.Join(t.Context(), token, joiner(2))
			require.NoError(t, err)
		})
	}
}

func TestASilentNodeIsReplacedWhenAskedTo(t *testing.T) {
	m := newMember(t)
	_, err := enroll.Join(t.Context(), m.invite(t), joiner(2))
	require.NoError(t, err)
	// It never came up, so it may come again, and keeps its address.
	q := joiner(2)
	q.MeshKey = key(12)
	a, err := enroll.Join(t.Context(), m.invite(t), q)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.2", a.MeshIP.String())

	n := orama.Node{ID: "node-2", MeshIP: a.MeshIP, PublicIP: q.PublicIP, MeshKey: q.MeshKey}
	require.NoError(t, m.records.Heartbeat(t.Context(), n, m.clock()))
	q.MeshKey, q.Replace = key(13), true
	token := m.invite(t)
	_, err = enroll.Join(t.Context(), token, q)
	require.Equal(t, "node_exists", code(err))
	m.pass(11 * time.Minute)
	_, err = enroll.Join(t.Context(), token, q)
	require.NoError(t, err)
	nodes, err := m.records.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, nodes, 2)
	require.Equal(t, key(13), nodes[1].MeshKey)
}

func TestTheMeshIsFull(t *testing.T) {
	m := newMember(t)
	for n := byte(2); n < 15; n++ {
		require.NoError(t, m.records.Heartbeat(t.Context(), orama.Node{ID: orama.NodeID(fmt.Sprintf("node-%d", n)), MeshIP: netip.AddrFrom4([4]byte{10, 0, 0, n})}, m.clock()))
	}
	_, err := enroll.Join(t.Context(), m.invite(t), joiner(50))
	require.Equal(t, "mesh_full", code(err))
}

func TestAMeshOfTheOperators(t *testing.T) {
	m := newMember(t, func(d *enroll.Deps) { d.OwnMesh = false })
	q := joiner(2)
	q.MeshKey, q.MeshEndpoint = "", ""
	token := m.invite(t)
	_, err := enroll.Join(t.Context(), token, q)
	require.ErrorContains(t, err, "--mesh-ip")
	q.MeshIP = netip.MustParseAddr("10.0.0.7")
	a, err := enroll.Join(t.Context(), token, q)
	require.NoError(t, err)
	require.Equal(t, q.MeshIP, a.MeshIP)
}

// TestAStrangerInTheMiddleIsToldNothing: whoever answers at the address with another key sees the beginning of a
// handshake and no byte of the request.
func TestAStrangerInTheMiddleIsToldNothing(t *testing.T) {
	m := newMember(t)
	token := m.invite(t)
	other, err := enroll.NewIdentity([32]byte{9})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	told := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		tc := tls.Server(c, enroll.ServerConfig(other))
		n, _ := io.Copy(io.Discard, tc) //nolint:errcheck // it ends when the joiner turns away
		told <- n
	}()
	token.Address = l.Addr().String()
	_, err = enroll.Join(t.Context(), token, joiner(2))
	require.Equal(t, "wrong_cluster", code(err))
	require.Zero(t, <-told)
}

func TestNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	_, err = enroll.Join(t.Context(), enroll.NewToken([32]byte{1}, address), joiner(2))
	require.Equal(t, "enroll_unreachable", code(err))
}

func TestMembersAskForTheNodes(t *testing.T) {
	m := newMember(t)
	nodes, err := enroll.Nodes(t.Context(), m.address, m.id)
	require.NoError(t, err)
	require.Len(t, nodes, 1)

	// A stranger who knows the fingerprint, as every joiner does, is no member.
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: enroll.ClientConfig(m.id.Fingerprint), DisableKeepAlives: true}}
	resp, err := h.Post("https://"+m.address+"/v1/nodes", "application/json", nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
}

func TestLargeRequestsAreRefused(t *testing.T) {
	m := newMember(t)
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: enroll.ClientConfig(m.id.Fingerprint), DisableKeepAlives: true}}
	resp, err := h.Post("https://"+m.address+"/v1/join", "application/json", strings.NewReader(`{"node":"`+strings.Repeat("x", 100_000)))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusUnprocessableEntity, resp.StatusCode)
	var e struct{ Error struct{ Code string } }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&e))
	require.Equal(t, "invalid_join", e.Error.Code)
}

func TestOneAddressIsPaced(t *testing.T) {
	m := newMember(t)
	refused := 0
	for range 40 {
		c, err := net.Dial("tcp", m.address)
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(200*time.Millisecond)))
		if _, err := c.Read(make([]byte, 1)); err == io.EOF { //nolint:errorlint // what a closed connection gives
			refused++
		}
		c.Close()
		if refused > 0 {
			return
		}
	}
	require.Fail(t, "forty connections at once were all taken")
}

func TestTokensReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.SampledFrom([]string{"203.0.113.1", "[2001:db8::1]", "node-1.example.org", "127.0.0.1"}).Draw(t, "host")
		token := enroll.NewToken([32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "print")), fmt.Sprintf("%s:%d", host, rapid.IntRange(1, 65535).Draw(t, "port")))
		shown := token.String()
		back, err := enroll.ParseToken(shown)
		require.NoError(t, err)
		require.Equal(t, token, back)

		// Whatever one character becomes, and wherever it is cut, it is a token no more.
		i := rapid.IntRange(0, len(shown)-1).Draw(t, "i")
		c := rapid.SampledFrom([]byte("Aa0-_.=+ \x00\xff")).Draw(t, "c")
		if shown[i] != c {
			_, err = enroll.ParseToken(shown[:i] + string(rune(c)) + shown[i+1:])
			require.Equal(t, "invalid_join_token", code(err))
		}
		_, err = enroll.ParseToken(shown[:i])
		require.Equal(t, "invalid_join_token", code(err))
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add(enroll.NewToken([32]byte{1}, "203.0.113.1:7946").String())
	f.Add("orama-join-1.AAAA")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := enroll.ParseToken(s)
		if err != nil {
			require.NotContains(t, err.Error(), "orama-join-1.A", "an error says nothing of the token")
			return
		}
		require.Equal(t, strings.TrimSpace(s), token.String())
	})
}

func FuzzRequest(f *testing.F) {
	q := joiner(2)
	q.Secret = make([]byte, 32)
	text, err := json.Marshal(q)
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"node":"a","secret":""}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := enroll.DecodeRequest(bytes.NewReader(text))
		if err != nil {
			require.NotEqual(t, orama.KindInternal, orama.KindOf(err))
			return
		}
		again, err := json.Marshal(q)
		require.NoError(t, err)
		back, err := enroll.DecodeRequest(bytes.NewReader(again))
		require.NoError(t, err)
		require.Equal(t, q, back)
	})
}
