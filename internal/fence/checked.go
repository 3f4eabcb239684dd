package fence

import "net/netip"

// Checked remembers what a Set said of one address, until the set is replaced: a packet then costs a comparison instead of
// a search. The zero value has asked nothing. It is not safe for concurrent use, and must be asked of one set and one address.
type Checked struct {
	table *table
	ok    bool
}

// Allows is Set.Allows, remembered.
func (c *Checked) Allows(s *Set, ap netip.AddrPort) bool {
	if t := s.table.Load(); t != c.table {
		c.table, c.ok = t, t != nil && t.allows(ap)
	}
	return c.ok
}
