// Package cache is short-lived state that may be lost at any time: the counters behind rate limits, and values that live for
// minutes. It is not a record of anything; what must survive a restart belongs to store.
//
// There are two engines: this process's memory, and Olric, which the gateways of a cluster share. Nobody waits for a
// slow Olric: a limit that it has not answered in 50 ms is this gateway's own. With every event counted here too,
// that is then a token bucket that knows only what came by here.
//
// A shared limit is the same token bucket, kept as one number: the time at which it will have refilled (the "theoretical
// arrival time" of the generic cell rate algorithm, ITU-T I.371). An event moves it on by one event's time, from
// now if it is past; one that would move it further ahead than the burst is refused and moves nothing. The number is
// changed by compare-and-set, so that events that gateways count at the same moment are all counted; the key goes
// when the bucket is full. Clocks of gateways that differ by d make that many seconds' worth of events too many, or too few.
//
// Olric makes a compare-and-set one step among those that reach one member. So each key has its member, the same for
// all gateways that are configured with the same addresses in any order, and another while that one does not answer.
// While gateways disagree about that, or while Olric moves a key, some events may be counted once for two.
package cache
