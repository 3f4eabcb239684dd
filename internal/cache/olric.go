package cache

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"orama.network/orama"
)

const (
	limitPatience = 50 * time.Millisecond // for a shared limit; a request waits for it
	valuePatience = time.Second           // for a value of one member
	restFor       = time.Second           // a member that failed is not asked for
	calmAfter     = 10 * time.Second      // without a failure it is told that Olric is back
	casAttempts   = 8                     // lost races for one key, at once; more is a flood, and refused
)

// The maps in Olric.
const (
	ratesMap  = "orama.rates"
	valuesMap = "orama.values"
)

// olric is the engine that gateways share. Olric speaks the Redis protocol, version 2, with commands of its own: no GET or SET.
type olric struct {
	members  []*member
	now      func() time.Time
	log      *slog.Logger
	patience time.Duration // for a shared limit

	mu     sync.Mutex
	away   bool      // guarded by mu; told that it cannot be reached
	failed time.Time // guarded by mu; when it could not be reached last
}

// member is one of Olric's processes; any can be asked for any key.
type member struct {
	addr   string
	client *redis.Client

	mu   sync.Mutex
	rest time.Time // guarded by mu; not asked before
}

func newOlric(o Options) (*olric, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("olric needs at least one address, such as 10.0.0.1:3320")
	}
	redis.SetLogger(quiet{})
	e := &olric{now: o.Now, log: o.Log, patience: limitPatience}
	for _, addr := range o.Addresses {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, errors.Join(errors.New("an address of olric has the form HOST:PORT"), e.close())
		}
		e.members = append(e.members, &member{addr: addr, client: redis.NewClient(&redis.Options{
			Addr: addr, Password: o.Password, Protocol: 2,
			// What it would send for these is unknown to Olric.
			DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
			// Trying again is the caller's, with another member; and the caller's time counts.
			MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, PoolTimeout: limitPatience,
			DialTimeout: valuePatience, ReadTimeout: valuePatience, WriteTimeout: valuePatience, PoolSize: 32,
		})})
	}
	return e, nil
}

// quiet takes what go-redis would write to stderr for every attempt that fails; it has one logger for the process.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func (e *olric) close() error {
	var errs []error
	for _, m := range e.members {
		errs = append(errs, m.client.Close())
	}
	return errors.Join(errs...)
}

// membersFor orders the members for a key, alike for everybody who has the same ones (rendezvous hashing). Those that did not
// answer a moment ago come last, or not at all.
func (e *olric) membersFor(key string, resting bool) []*member {
	type ranked struct {
		m     *member
		rests bool
		rank  uint64
	}
	now := e.now()
	var order []ranked
	for _, m := range e.members {
		m.mu.Lock()
		rests := now.Before(m.rest)
		m.mu.Unlock()
		if rests && !resting {
			continue
		}
		h := fnv.New64a()
		h.Write([]byte(m.addr + "\x00" + key)) //nolint:errcheck // never fails
		order = append(order, ranked{m, rests, h.Sum64()})
	}
	slices.SortFunc(order, func(a, b ranked) int {
		if a.rests != b.rests {
			if a.rests {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.rank, b.rank)
	})
	out := make([]*member, len(order))
	for i, r := range order {
		out[i] = r.m
	}
	return out
}

// each asks members in turn until one answers; that the key is not there is an answer.
func (e *olric) each(ctx context.Context, members []*member, patience time.Duration, ask func(context.Context, *redis.Client) error) error {
	errs := []error{errors.New("every member failed, now or a moment ago")}
	for _, m := range members {
		err := m.ask(ctx, patience, ask)
		if err == nil || isNotFound(err) {
			e.saw(nil)
			return err
		}
		errs = append(errs, err)
		if errors.Is(ctx.Err(), context.Canceled) {
			return unavailable(errors.Join(errs...)) // the caller gave up, which says nothing
		}
		var answer redis.Error
		if !errors.As(err, &answer) { // one that answers with an error, as for a key that another should have, serves other keys
			m.mu.Lock()
			m.rest = e.now().Add(restFor)
			m.mu.Unlock()
		}
		if ctx.Err() != nil {
			break
		}
	}
	err := errors.Join(errs...)
	e.saw(err)
	return unavailable(err)
}

// value asks for a value's key; the caller of that waits for whoever may still answer.
func (e *olric) value(ctx context.Context, key string, ask func(context.Context, *redis.Client) error) error {
	return e.each(ctx, e.membersFor(key, true), valuePatience, ask)
}

func (m *member) ask(ctx context.Context, patience time.Duration, ask func(context.Context, *redis.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := ask(ctx, m.client); err != nil {
		return fmt.Errorf("%s: %w", m.addr, err)
	}
	return nil
}

// saw tells, once for each time, that Olric went or came. While its members find out that one of them has died, some keys fail
// and others do not: that is one time.
func (e *olric) saw(err error) {
	e.mu.Lock()
	now, before := e.now(), e.away
	if err != nil {
		e.away, e.failed = true, now
	} else if now.Sub(e.failed) > calmAfter {
		e.away = false
	}
	after := e.away
	e.mu.Unlock()
	if after && !before {
		e.log.Warn("the shared cache cannot be reached; each gateway counts its limits alone until it can", "err", err)
	}
	if before && !after {
		e.log.Info("the shared cache can be reached again")
	}
}

// isNotFound recognises Olric's answer for a key that is not there, by its code: the first word of an error in this protocol.
func isNotFound(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && strings.HasPrefix(answer.Error(), "KEYNOTFOUND ")
}

// limitKey names a limit in Olric. It is hashed: keys hold users and addresses, which are nobody's business there.
func limitKey(key string, burst int, perSecond float64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %g %s", burst, perSecond, key))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// take decides by the shared limit, and counts the event if it may come and is to be counted. Not ok: Olric did not say in time.
func (e *olric) take(key string, burst int, perSecond float64, count bool) (wait time.Duration, ok bool) {
	name := limitKey(key, burst, perSecond)
	step := time.Duration(float64(time.Second) / perSecond)
	ctx, cancel := context.WithTimeout(context.Background(), e.patience)
	defer cancel()
	err := e.each(ctx, e.membersFor(name, false), e.patience, func(ctx context.Context, c *redis.Client) error {
		for range casAttempts {
			was, full, err := readFull(ctx, c, name)
			if err != nil {
				return err
			}
			now := e.now()
			if full.Before(now) {
				full = now
			}
			full = full.Add(step)
			if wait = full.Sub(now) - time.Duration(burst)*step; wait > 0 || !count {
				wait = max(0, wait)
				return nil
			}
			wait = 0
			done, err := swap(ctx, c, name, was, strconv.FormatInt(full.UnixMicro(), 10), full.Sub(now))
			if err != nil || done {
				return err
			}
		}
		wait = step
		return nil
	})
	if wait > 0 {
		wait = max(time.Millisecond, wait)
	}
	return wait, err == nil
}

// readFull reads when a bucket will have refilled: not known, or unreadable, is full.
func readFull(ctx context.Context, c *redis.Client, name string) (was string, full time.Time, err error) {
	was, err = c.Do(ctx, "DM.GET", ratesMap, name).Text()
	if isNotFound(err) {
		return "", time.Time{}, nil
	}
	us, bad := strconv.ParseInt(was, 10, 64)
	if err != nil || bad != nil {
		return was, time.Time{}, err
	}
	return was, time.UnixMicro(us), nil
}

// swap writes a value where another, or for "" none, was. It is kept until the bucket is full.
func swap(ctx context.Context, c *redis.Client, name, was, is string, ttl time.Duration) (bool, error) {
	got, err := c.Do(ctx, "DM.CAS", ratesMap, name, was, is, "PX", max(1, ttl.Milliseconds())).Slice()
	if err != nil {
		return false, err
	}
	done, ok := int64(0), false
	if len(got) > 0 {
		done, ok = got[0].(int64)
	}
	if !ok {
		return false, errors.New("DM.CAS answered something else than it should")
	}
	return done == 1, nil
}

func (e *olric) put(ctx context.Context, key, value string, ttl time.Duration) error {
	return e.value(ctx, key, func(ctx context.Context, c *redis.Client) error {
		return c.Do(ctx, "DM.PUT", valuesMap, key, value, "PX", ttl.Milliseconds()).Err()
	})
}

func (e *olric) get(ctx context.Context, key string) (value string, err error) {
	err = e.value(ctx, key, func(ctx context.Context, c *redis.Client) (err error) {
		value, err = c.Do(ctx, "DM.GET", valuesMap, key).Text()
		return err
	})
	switch {
	case isNotFound(err):
		return "", orama.ErrNotFound
	case err == nil && len(value) > maxValue:
		return "", unavailable(errors.New("the value is longer than any that was kept"))
	}
	return value, err
}

func (e *olric) remove(ctx context.Context, key string) error {
	err := e.value(ctx, key, func(ctx context.Context, c *redis.Client) error {
		return c.Do(ctx, "DM.DEL", valuesMap, key).Err()
	})
	if isNotFound(err) {
		return nil
	}
	return err
}

// check gives the first member that takes it a value, which every other that answers must have then.
func (e *olric) check(ctx context.Context) error {
	key, text := "check-"+rand.Text(), rand.Text()
	var gave *member
	var errs []error
	for _, m := range e.members {
		err := m.ask(ctx, valuePatience, func(ctx context.Context, c *redis.Client) error {
			if gave == nil {
				return giveCheck(ctx, c, key, text)
			}
			got, err := c.Do(ctx, "DM.GET", ratesMap, key).Text()
			if isNotFound(err) || err == nil && got != text {
				return errNotShared
			}
			return err
		})
		switch {
		case errors.Is(err, errNotShared):
			return unavailable(fmt.Errorf("%s does not have what %s was given: they are not one cluster", m.addr, gave.addr))
		case err != nil:
			errs = append(errs, err)
		case gave == nil:
			gave = m
		}
	}
	if gave == nil {
		return unavailable(errors.Join(errs...))
	}
	return nil
}

var errNotShared = errors.New("not shared")

// giveCheck uses every command that the cache needs.
func giveCheck(ctx context.Context, c *redis.Client, key, text string) error {
	const ttl = 10_000 // ms
	if err := c.Do(ctx, "DM.PUT", ratesMap, key, "first", "PX", ttl).Err(); err != nil {
		return err
	}
	done, err := swap(ctx, c, key, "first", text, ttl*time.Millisecond)
	if err != nil {
		return fmt.Errorf("DM.CAS, which the cache needs, fails: %w", err)
	}
	if !done {
		return errors.New("DM.CAS does not find what DM.PUT kept")
	}
	return nil
}
