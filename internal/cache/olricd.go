package cache

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// The ports of olric-server, both TCP, the second UDP too.
const (
	OlricPort       = 3320 // the Redis protocol
	OlricGossipPort = 3322 // its members among themselves
)

// Olric describes one member of a cluster of Olric. It has no encryption of its own: its addresses are the mesh's.
type Olric struct {
	Address  netip.AddrPort   // of the Redis protocol
	Gossip   netip.AddrPort   // where the others reach it
	Peers    []netip.AddrPort // gossip addresses of all; its own, with which it would not start, is left out
	Password string           // "": anybody on the mesh may read and write
}

// OlricConfig is the configuration file of olric-server, for its flag -c. It holds the password, so only olric-server may read it.
func OlricConfig(o Olric) []byte {
	replicas := 1
	var peers strings.Builder
	for _, p := range o.Peers {
		if p != o.Gossip {
			fmt.Fprintf(&peers, "\n    - %s", quote(p.String()))
			replicas = 2 // what one member has survives it
		}
	}
	if peers.Len() == 0 {
		peers.WriteString(" []")
	}
	auth := ""
	if o.Password != "" {
		auth = "authentication:\n  password: " + quote(o.Password) + "\n"
	}
	return fmt.Appendf(nil, olricYAML, quote(o.Address.Addr().String()), o.Address.Port(), replicas, auth,
		quote(o.Gossip.Addr().String()), o.Gossip.Port(), peers.String())
}

// quote writes a string as JSON, which is YAML too.
func quote(s string) string {
	text, _ := json.Marshal(s) // strings always can be
	return string(text)
}

// olricYAML: quorums of one, because limits that two parts of a cluster count apart are better than none. A member looks for its
// peers for 5 s before it takes itself for the first.
const olricYAML = `server:
  bindAddr: %s
  bindPort: %d
  keepAlivePeriod: 300s
  bootstrapTimeout: 5s
  partitionCount: 271
  replicaCount: %d
  writeQuorum: 1
  readQuorum: 1
  readRepair: true
  replicationMode: 0
  memberCountQuorum: 1
  routingTablePushInterval: 10s
  enableClusterEventsChannel: false
%sclient:
  dialTimeout: 1s
  readTimeout: 1s
  writeTimeout: 1s
  maxRetries: 1
logging:
  verbosity: 2
  level: WARN
  output: stderr
memberlist:
  environment: lan
  bindAddr: %s
  bindPort: %d
  enableCompression: false
  joinRetryInterval: 500ms
  maxJoinAttempts: 10
  peers:%s
dmaps:
  engine:
    name: ramblock
    config:
      tableSize: 524288
  checkEmptyFragmentsInterval: 1m
  triggerCompactionInterval: 10m
`
