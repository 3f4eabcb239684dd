package turn

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkRelay sends 160 bytes as ChannelData through the relay to an SFU's socket and back. It
// reports the process's CPU for each relayed packet, of which there are two in a round; the client and the
// echo, two system calls each, are part of it.
func BenchmarkRelay(b *testing.B) {
	for _, transport := range transports {
		b.Run(transport, func(b *testing.B) {
			h := newHost(b)
			c := h.client(transport, alpha)
			c.allocate()
			require.Zero(b, c.bind(0x4000, h.sfu[alpha].at))
			require.NoError(b, c.conn.SetReadDeadline(time.Time{}))
			out, in := append([]byte{0x40, 0, 0, 160}, make([]byte, 160)...), make([]byte, 2048)
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				if _, err := c.conn.Write(out); err != nil {
					b.Fatal(err)
				}
				if _, err := c.read(in); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(2*b.N), "cpu-ns/packet")
		})
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
