package plan

import "orama.network/orama"

// Above any of these a node is strained: what is put there would be served badly.
const (
	maxLoadPerCPU = 1.5 // runnable processes
	maxMemory     = 0.9 // used part
	maxLink       = 0.8 // used part; both directions are counted, so half of it is one direction's limit
)

// strained is 1 for a node that has little left of something, as far as it was measured.
func strained(r orama.NodeReport) int {
	if loadPerCPU(r) > maxLoadPerCPU || memoryUsed(r) > maxMemory || linkUsed(r) > maxLink {
		return 1
	}
	return 0
}

// failing is 1 for a node that says of one of its parts that it does not serve.
func failing(n orama.Node) int {
	for _, problem := range n.Report.Checks {
		if problem != "" {
			return 1
		}
	}
	return 0
}

func loadPerCPU(r orama.NodeReport) float64 {
	if r.CPUs <= 0 {
		return 0
	}
	return r.Load / float64(r.CPUs)
}

func memoryUsed(r orama.NodeReport) float64 {
	if r.MemoryTotal == 0 {
		return 0
	}
	return 1 - min(1, float64(r.MemoryAvailable)/float64(r.MemoryTotal))
}

func linkUsed(r orama.NodeReport) float64 {
	if r.LinkSpeed == 0 {
		return 0
	}
	return float64(r.Bandwidth) / float64(r.LinkSpeed)
}

// steps counts in whole parts of one.
func steps(v float64, parts int) int { return int(min(v, 1e6) * float64(parts)) }
