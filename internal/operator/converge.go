package operator

import (
	"context"
	"errors"
	"time"

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
			o.d.Log.Warn("names and disabled namespaces are not tidied now; trying on", "error", err)
		case err == nil && failing:
			o.d.Log.Info("names and disabled namespaces are tidied again")
		}
		failing = err != nil
		if sleep(ctx, convergeEvery) != nil {
			return nil
		}
	}
}

// Converge continues what somebody began and did not end: it finishes namespaces whose instances were seen gone, and
// brings DNS in step with the relays that were seen ready.
func (o *Operator) Converge(ctx context.Context) error {
	c, err := o.d.Store.Cluster(ctx)
	if err != nil {
		return err
	}
	var errs error
	for _, n := range c.Namespaces {
		if _, any := plan.Finish(c, n.ID); any {
			_, err := o.finish(ctx, n.ID)
			errs = errors.Join(errs, err)
		}
	}
	if put, del := plan.DNS(c, o.d.BaseDomain); len(put)+len(del) > 0 {
		errs = errors.Join(errs, o.publishAll(ctx))
	}
	return errs
}
