package store

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
)

// The ports of rqlited, both TCP.
const (
	RQLiteHTTPPort = 4001
	RQLiteRaftPort = 4002
)

// Rqlited describes one node of a cluster of RQLite. The cluster has no encryption of its own here: its addresses are the mesh's.
type Rqlited struct {
	Node    string           // its name, unique in the cluster, and the same for ever
	HTTP    netip.AddrPort   // of its HTTP API
	Raft    netip.AddrPort   // where the others reach it
	Members []netip.AddrPort // the first nodes' Raft addresses, its own among them; the same list on each of them
	DataDir string           // absolute, of its own
	Auth    string           // file that RqlitedAuth made; "": anybody on the mesh may read and write
	User    string           // in Auth
}

// RqlitedArgs is the command line of rqlited. It is the same for the first start, for every other (what the node has on disk then
// counts, not Members), and for a node that comes later (whose Members are the nodes that are there). A cluster
// begins when all Members are up.
func RqlitedArgs(n Rqlited) []string {
	members := make([]string, len(n.Members))
	for i, m := range n.Members {
		members[i] = m.String()
	}
	args := []string{"-node-id", n.Node, "-http-addr", n.HTTP.String(), "-raft-addr", n.Raft.String()}
	if n.Auth != "" {
		args = append(args, "-auth", n.Auth, "-join-as", n.User)
	}
	if len(members) > 1 {
		args = append(args, "-bootstrap-expect", strconv.Itoa(len(members)), "-join", strings.Join(members, ","))
	}
	return append(args, n.DataDir)
}

// RqlitedAuth is the content of rqlited's file of users, for one who may do what a Store does, and join. It holds the password, so
// only rqlited may read it.
func RqlitedAuth(user, password string) []byte {
	type credential struct {
		Username string   `json:"username"`
		Password string   `json:"password"`
		Perms    []string `json:"perms"`
	}
	text, _ := json.Marshal([]credential{{user, password, []string{"execute", "query", "ready", "join"}}}) // strings always can be
	return append(text, '\n')
}
