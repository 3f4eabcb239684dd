package operator

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

// convergeEvery is how long what a crash left half done, or a relay's change of state, may stay so.
const convergeEvery = time.Second

// Run converges again and again until ctx ends. Every node may do it: whoever is first commits, the others find
// nothing to do.
func (o *Operator) Run(ctx context.Context) error {
	failing := false
	for {
		err := o.Converge(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			o.d.Log.Log(ctx, levelOf(err), "the cluster is not brought in order now; trying on", "error", err)
		}
		failing = err != nil
		if sleep(ctx, convergeEvery) != nil {
			return nil
		}
	}
}

// levelOf is how loud a trouble is told: that the records cannot be reached is told already by who keeps the connection.
func levelOf(err error) slog.Level {
	if orama.KindOf(err) == orama.KindUnavailable {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// Converge brings the cluster one step nearer to what is wanted of it. It continues what somebody began and did not
// end: it finishes what was seen gone, and brings DNS in step with the relays that were seen ready. And it gives namespaces the
// instances that they lack: those of a node that was silent for 10 minutes, and those that nobody could take before. A
// node counts as silent for the time that this Operator watched it, so Converge is to be called every few seconds.
func (o *Operator) Converge(ctx context.Context) error {
	c, err := o.d.Store.Cluster(ctx)
	if err != nil {
		return err
	}
	silence := o.look(c)
	var errs error
	for _, n := range c.Namespaces {
		if _, any := plan.Finish(c, n.ID, silence); any {
			_, err := o.finish(ctx, n.ID)
			errs = errors.Join(errs, err)
		}
	}
	ch, reasons := plan.Converge(c, o.d.Now(), silence)
	if !plan.Empty(ch) {
		_, err := o.change(ctx, func(c orama.Cluster) (orama.Change, error) {
			ch, reasons = plan.Converge(c, o.d.Now(), o.look(c))
			return ch, nil
		})
		errs = errors.Join(errs, err)
		for _, e := range ch.Events {
			if err == nil {
				o.d.Log.Info("instances are placed", "namespace", e.Namespace, "what", e.Detail)
			}
		}
	}
	o.explain(reasons)
	if put, del := plan.DNS(c, o.d.BaseDomain); len(put)+len(del) > 0 {
		errs = errors.Join(errs, o.publishAll(ctx))
	}
	return errs
}

// look counts the nodes' heartbeats.
func (o *Operator) look(c orama.Cluster) plan.Silence {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.watch.Look(c.Nodes, o.d.Now())
}

// explain logs each reason for which something is left undone once, and that it is no more.
func (o *Operator) explain(reasons []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := map[string]bool{}
	for _, why := range reasons {
		now[why] = true
		if !o.explained[why] {
			o.d.Log.Warn("left undone", "reason", why)
		}
	}
	for why := range o.explained {
		if !now[why] {
			o.d.Log.Info("no longer left undone", "reason", why)
		}
	}
	o.explained = now
}
