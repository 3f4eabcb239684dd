package turn

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"orama.network/orama"
)

// RelayStatus is one living relay, as operators are shown it.
type RelayStatus struct {
	ID          string            `json:"id"` // namespace/port of the relay; good until it ends
	Namespace   orama.NamespaceID `json:"namespace"`
	Transport   string            `json:"transport"` // of the client: "udp", "tcp", "tls" or "dtls"
	Client      netip.AddrPort    `json:"client"`
	Relay       netip.AddrPort    `json:"relay"`
	Since       time.Time         `json:"since"`
	Expires     time.Time         `json:"expires"` // unless it is refreshed
	UpPackets   uint64            `json:"up_packets"`
	UpBytes     uint64            `json:"up_bytes"` // payload, from the client
	DownPackets uint64            `json:"down_packets"`
	DownBytes   uint64            `json:"down_bytes"`
}

// maxListed bounds one answer of Relays: some 4 MB as JSON.
const maxListed = 10_000

// Relays lists the living relays of a namespace, or of all for "", by namespace and port. cut says that there are more.
func (s *Server) Relays(ns orama.NamespaceID) (list []RelayStatus, cut bool) {
	list = []RelayStatus{}
	tenants := s.tenants()
	names := make([]orama.NamespaceID, 0, len(tenants))
	for id := range tenants {
		if ns == "" || id == ns {
			names = append(names, id)
		}
	}
	slices.Sort(names)
	for _, id := range names {
		relays := tenants[id].list()
		slices.SortFunc(relays, func(a, b *relay) int { return cmp.Compare(a.port, b.port) })
		for _, r := range relays {
			if len(list) == maxListed {
				return list, true
			}
			list = append(list, statusOf(r))
		}
	}
	return list, false
}

func statusOf(r *relay) RelayStatus {
	sum := r.totals()
	st := RelayStatus{
		ID: relayID(r.tenant.id, r.port), Namespace: r.tenant.id, Transport: r.transport, Client: r.client,
		Relay: r.socks[0].at, Since: r.created, Expires: r.session,
		UpPackets: sum.upPackets, UpBytes: sum.upBytes, DownPackets: sum.downPackets, DownBytes: sum.downBytes,
	}
	if at := r.expires.Load(); at != 0 { // else its Allocate is being answered
		st.Expires = time.Unix(0, at)
	}
	return st
}

func relayID(ns orama.NamespaceID, port uint16) string {
	return fmt.Sprintf("%s/%d", ns, port)
}

// EndRelay ends the relay that Relays gave this id. Its client is told nothing, and may ask for another.
func (s *Server) EndRelay(id string) error {
	ns, text, _ := strings.Cut(id, "/")
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || relayID(orama.NamespaceID(ns), uint16(port)) != id {
		return orama.Errorf(orama.KindInvalid, "bad_relay_id", "%.80q is no relay's id, which is NAMESPACE/PORT; 'orama turn list' shows them", id)
	}
	if t := s.tenants()[orama.NamespaceID(ns)]; t != nil {
		for _, r := range t.list() {
			if r.port == uint16(port) {
				r.end(endOperator)
				return nil
			}
		}
	}
	return orama.Errorf(orama.KindNotFound, "no_such_relay", "there is no relay %s; 'orama turn list' shows those that live", id)
}
