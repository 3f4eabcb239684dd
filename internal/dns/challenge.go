package dns

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/libdns/libdns"

	"orama.network/orama"
)

// challengeLife is how long a challenge that nobody took back stays in the records.
const challengeLife = time.Hour

// TXTStore keeps texts where every node's name server finds them.
type TXTStore interface {
	SetTXT(ctx context.Context, r orama.TXTRecord, now time.Time) error
	RemoveTXT(ctx context.Context, name, value string) error
}

// Challenges puts the answers to ACME challenges into the cluster's records. It is what libdns calls a provider, of
// TXT records alone.
type Challenges struct {
	Records TXTStore
}

var (
	_ libdns.RecordAppender = Challenges{}
	_ libdns.RecordDeleter  = Challenges{}
)

// AppendRecords publishes texts for an hour at most.
func (c Challenges) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	var out []libdns.Record
	for _, r := range recs {
		name, t, err := text(zone, r)
		if err != nil {
			return out, err
		}
		now := time.Now()
		err = c.Records.SetTXT(ctx, orama.TXTRecord{Name: name, Value: t.Text, TTL: int(t.TTL.Seconds()), Expires: now.Add(challengeLife)}, now)
		if err != nil {
			return out, err
		}
		out = append(out, t)
	}
	return out, nil
}

// DeleteRecords takes texts back.
func (c Challenges) DeleteRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	var out []libdns.Record
	for _, r := range recs {
		name, t, err := text(zone, r)
		if err != nil {
			return out, err
		}
		if err := c.Records.RemoveTXT(ctx, name, t.Text); err != nil {
			return out, err
		}
		out = append(out, t)
	}
	return out, nil
}

// text is a record's full name, in lower case and without the trailing dot, and itself if it is a text.
func text(zone string, r libdns.Record) (string, libdns.TXT, error) {
	rr := r.RR()
	if rr.Type != "TXT" {
		return "", libdns.TXT{}, fmt.Errorf("dns: only TXT records are kept, not %s", rr.Type)
	}
	name := strings.ToLower(strings.TrimSuffix(libdns.AbsoluteName(rr.Name, zone), "."))
	return name, libdns.TXT{Name: rr.Name, TTL: rr.TTL, Text: rr.Data}, nil
}
