package turn

import (
	"slices"
	"strings"

	"orama.network/orama"
)

// Status is what a Server is doing, as its agent asks for it.
type Status struct {
	Boot       string           `json:"boot"`       // changes with every start of the process
	Configured bool             `json:"configured"` // Apply has succeeded once
	Draining   bool             `json:"draining"`
	Listeners  []ListenerStatus `json:"listeners"`
	Tenants    []TenantStatus   `json:"tenants"` // by namespace

	// Unleased are the namespaces that are configured and not served, because nobody holds a lease of them.
	Unleased []orama.NamespaceID `json:"unleased,omitempty"`
}

// ListenerStatus is one listener. One with an Error does not serve; the error is for operators.
type ListenerStatus struct {
	Transport string `json:"transport"` // "udp", "tcp", "tls" or "dtls"
	Addr      string `json:"addr"`
	Error     string `json:"error,omitempty"`
}

// TenantStatus is one namespace.
type TenantStatus struct {
	Namespace   orama.NamespaceID `json:"namespace"`
	Allocations int               `json:"allocations"` // living
	RelayPorts  int               `json:"relay_ports"` // size of the block
}

// Status reads the server's state.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		Boot: s.boot, Configured: s.configured, Draining: s.draining.Load() || s.handed.Load(),
		Listeners: []ListenerStatus{}, Tenants: []TenantStatus{}, Unleased: s.unleased(),
	}
	_, noCert := s.cert.get("")
	for _, l := range s.listeners {
		ls := ListenerStatus{Transport: l.transport, Addr: l.addr}
		switch {
		case l.err != nil:
			ls.Error = l.err.Error()
		case noCert != nil && (l.transport == transportTLS || l.transport == transportDTLS):
			ls.Error = noCert.Error()
		}
		st.Listeners = append(st.Listeners, ls)
	}
	for id, t := range s.tenants() {
		_, living, ports := t.reading()
		ts := TenantStatus{Namespace: id, RelayPorts: ports}
		for _, n := range living {
			ts.Allocations += n
		}
		st.Tenants = append(st.Tenants, ts)
	}
	slices.SortFunc(st.Tenants, func(a, b TenantStatus) int { return strings.Compare(string(a.Namespace), string(b.Namespace)) })
	return st
}
