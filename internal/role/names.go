package role

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/dns"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/store"
)

// names makes the base domain's names known as the configuration says: by a server of this node, by updates of
// somebody else's zone, or not at all.
type names struct {
	cfg     config.Node
	records *store.Store
	server  *dns.Server // nil: not of this node
	foreign *foreign    // nil: there is no other's zone
	log     *slog.Logger
	zone    string // of the foreign one, once it was found; of run alone

	mu     sync.Mutex // guards the following fields
	err    error      // of the last push
	wanted []orama.DNSRecord
	since  time.Time // when that changed
	at     time.Time // when the zone was last compared
}

// openNames prepares what the configuration asks for; the server's sockets are bound at once, for whoever asks during a
// cold boot to hear SERVFAIL rather than nothing.
func openNames(cfg config.Node, records *store.Store, log *slog.Logger) (*names, error) {
	n := &names{cfg: cfg, records: records, log: log}
	switch cfg.DNS.Mode {
	case "serve":
		n.server = dns.NewServer(dns.Options{Listen: cfg.DNS.Listen, Log: log})
		return n, n.server.Listen()
	}
	var err error
	n.foreign, err = openForeign(cfg, log)
	return n, err
}

// run keeps the names what the records say until ctx ends. While the records cannot be read, what is known is served.
func (n *names) run(ctx context.Context) error {
	switch {
	case n.server != nil:
		served := make(chan error, 1)
		go func() { served <- n.server.Run(ctx) }()
		err := every(ctx, nil, nil, n.refresh)
		return firstOf(<-served, err)
	case n.foreign != nil:
		// Providers bound what they do, by more than a look at the records may take.
		return every(ctx, nil, nil, func(bounded context.Context) { n.push(ctx, bounded) })
	}
	<-ctx.Done()
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// serves reports whether who asks hears of the zone, as far as this node has to do with it.
func (n *names) serves() bool { return n.server == nil || n.server.Serial() > 0 }

// refresh makes the served zone that of the records.
func (n *names) refresh(ctx context.Context) {
	c, err := n.records.Cluster(ctx)
	if err != nil {
		return
	}
	now := time.Now()
	texts, err := n.records.TXT(ctx, now)
	if err != nil {
		return
	}
	servers, glue := plan.Nameservers(c, n.cfg.BaseDomain, n.cfg.DNS.Nameservers)
	err = n.server.Set(dns.Zone{Base: n.cfg.BaseDomain, Nameservers: servers, Serial: uint32(c.Revision), //nolint:gosec // serial numbers wrap
		Records: slices.Concat(c.DNS, plan.Hosts(c, n.cfg.BaseDomain, now), glue), TXT: texts})
	n.note(err, "part of the zone is not served")
}

// push brings somebody else's zone in step, when something changed or it was not compared for a while.
func (n *names) push(ctx, look context.Context) {
	c, err := n.records.Cluster(look)
	if err != nil {
		return
	}
	want := slices.Concat(c.DNS, plan.Hosts(c, n.cfg.BaseDomain, time.Now()))
	if !n.due(c, want, time.Now()) {
		return
	}
	if n.zone == "" {
		if n.zone, err = n.foreign.find(ctx, n.cfg.BaseDomain); err != nil {
			n.note(err, n.foreign.what+" cannot be updated")
			return
		}
	}
	began := time.Now()
	p := dns.Pusher{Provider: n.foreign, Zone: n.zone, Base: n.cfg.BaseDomain}
	changed, err := p.Push(ctx, want)
	if ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	n.at = began // what was refused is tried again after a while
	n.mu.Unlock()
	n.note(err, n.foreign.what+" cannot be updated")
	if changed > 0 {
		n.log.Info(n.foreign.what+" was updated", "records", changed)
	}
}

// note keeps the last trouble for the node's report, and logs it once.
func (n *names) note(err error, what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil && (n.err == nil || n.err.Error() != err.Error()) {
		n.log.Warn(what, "error", err)
	}
	n.err = err
}

// check says what is wrong with the names, if anything.
func (n *names) check(ctx context.Context) error {
	n.mu.Lock()
	err := n.err
	n.mu.Unlock()
	if err == nil && n.server != nil {
		err = n.server.Check(ctx)
	}
	return err
}
