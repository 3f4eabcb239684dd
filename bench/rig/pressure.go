package rig

import (
	"os"
	"strconv"
	"strings"
)

// Pressure is the part of the last ten seconds, in percent, in which somebody on this machine waited for a core, by
// the kernel's account; less than 0 where it keeps none.
func Pressure() float64 {
	text, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return -1
	}
	return parsePressure(string(text))
}

func parsePressure(text string) float64 {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "some avg10=")
		if !ok {
			continue
		}
		word, _, _ := strings.Cut(rest, " ")
		if v, err := strconv.ParseFloat(word, 64); err == nil {
			return v
		}
	}
	return -1
}
