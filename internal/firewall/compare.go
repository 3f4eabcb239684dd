package firewall

import "slices"

// Difference is what is between the rules that are there and those that are wanted.
type Difference struct {
	Add    []Rule // wanted, and not there as wanted
	Delete []Rule // ours, and not wanted
	Clash  []Rule // of somebody else's, the very opposite of one that is wanted: it stays, and so the port stays closed
}

// Empty tells that there is nothing to do.
func (d Difference) Empty() bool { return len(d.Add) == 0 && len(d.Delete) == 0 }

// Compare finds what has to be done so that every wanted rule is there and no other of ours. A rule of somebody else's
// is not changed: where it allows what is wanted, that is enough. A port that has both is theirs, for UFW would
// take away the two of them together.
func Compare(have, want []Rule) Difference {
	var d Difference
	byMatch := map[Match][]Rule{}
	for _, r := range have {
		byMatch[r.Match] = append(byMatch[r.Match], r)
	}
	wanted := map[Match]bool{}
	for _, w := range want {
		if wanted[w.Match] {
			continue // twice the same: the first counts
		}
		wanted[w.Match] = true
		there := byMatch[w.Match]
		if i := slices.IndexFunc(there, func(r Rule) bool { return !r.Ours() }); i >= 0 {
			if there[i].Action != "allow" {
				d.Clash = append(d.Clash, there[i])
			}
			continue
		}
		if len(there) != 1 || there[0] != w {
			d.Add = append(d.Add, w)
		}
	}
	for m, there := range byMatch {
		if !wanted[m] && !slices.ContainsFunc(there, func(r Rule) bool { return !r.Ours() }) {
			d.Delete = append(d.Delete, there[0])
		}
	}
	slices.SortFunc(d.Delete, func(a, b Rule) int { return slices.Index(have, a) - slices.Index(have, b) })
	return d
}
