package cache

import "time"

// Len is how many keys are remembered.
func (r *Rates) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.buckets)
}

// Values is how many values are remembered.
func (c *Cache) Values() int {
	c.values.mu.Lock()
	defer c.values.mu.Unlock()
	return len(c.values.kept)
}

// Patient lets a shared limit take long, where a test is about what it says and the machine is slow.
func (c *Cache) Patient() *Cache {
	c.shared.patience = 10 * time.Second
	return c
}
