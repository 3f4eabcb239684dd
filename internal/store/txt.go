package store

import (
	"context"
	"time"

	"orama.network/orama"
)

// keptTXT bounds the texts under the base domain; an order for a certificate needs one or two at a time.
const keptTXT = 1000

// raiseRevision makes every node look again: names have changed, though nothing that is planned from a revision.
const raiseRevision = `UPDATE meta SET value = value + 1 WHERE key = 'revision'`

// SetTXT makes every node's name server answer with a text, until r.Expires. Texts that have expired by now are
// removed with it. orama.ErrConflict: there are too many.
func (s *Store) SetTXT(ctx context.Context, r orama.TXTRecord, now time.Time) error {
	return s.write(ctx, []statement{
		stmt(anyRows, `DELETE FROM dns_txt WHERE expires <= ?`, micros(now)),
		stmt(1, `INSERT INTO dns_txt (name, value, ttl, expires) SELECT ?, ?, ?, ? WHERE (SELECT count(*) FROM dns_txt) < ?
			ON CONFLICT (name, value) DO UPDATE SET ttl = excluded.ttl, expires = excluded.expires`,
			r.Name, r.Value, int64(r.TTL), micros(r.Expires), int64(keptTXT)),
		stmt(1, raiseRevision),
	})
}

// RemoveTXT takes a text back; one that is not there is none the less gone.
func (s *Store) RemoveTXT(ctx context.Context, name, value string) error {
	return s.write(ctx, []statement{
		stmt(anyRows, `DELETE FROM dns_txt WHERE name = ? AND value = ?`, name, value),
		stmt(1, raiseRevision),
	})
}

// TXT lists the texts that have not expired by now, by name.
func (s *Store) TXT(ctx context.Context, now time.Time) ([]orama.TXTRecord, error) {
	got, err := s.read(ctx, stmt(anyRows, `SELECT name, value, ttl, expires FROM dns_txt WHERE expires > ? ORDER BY name, value`, micros(now)))
	if err != nil {
		return nil, err
	}
	return each(got[0], func(r row) orama.TXTRecord {
		return orama.TXTRecord{Name: r.str(0), Value: r.str(1), TTL: int(r.int(2)), Expires: r.time(3)}
	}), nil
}
