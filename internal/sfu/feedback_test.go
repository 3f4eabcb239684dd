package sfu

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/logging"
	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"
)

// Nothing runs for who does not publish, and with the first track everything does.
func TestFeedbackBeginsWithTheFirstTrack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry, err := newInterceptors(logging.NewDefaultLoggerFactory())
		require.NoError(t, err)
		i, err := registry.Build("")
		require.NoError(t, err)
		sent := make(chan rtcp.Packet, 100)
		i.BindRTCPWriter(interceptor.RTCPWriterFunc(func(list []rtcp.Packet, _ interceptor.Attributes) (int, error) {
			for _, p := range list {
				sent <- p
			}
			return 0, nil
		}))
		reader := i.BindRTCPReader(interceptor.RTCPReaderFunc(func(b []byte, a interceptor.Attributes) (int, interceptor.Attributes, error) {
			return copy(b, []byte{0x80, 200, 0, 6, 0, 0, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}), a, nil
		}))
		buf := make([]byte, 100)
		_, _, err = reader.Read(buf, interceptor.Attributes{})
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Empty(t, sent)

		seq := byte(0)
		media := i.BindRemoteStream(&interceptor.StreamInfo{SSRC: 1, ClockRate: 90_000, RTCPFeedback: []interceptor.RTCPFeedback{{Type: "nack"}}},
			interceptor.RTPReaderFunc(func(b []byte, a interceptor.Attributes) (int, interceptor.Attributes, error) {
				seq += 2
				return copy(b, []byte{0x80, 96, 0, seq, 0, 0, 0, 0, 0, 0, 0, 1}), a, nil
			}))
		for range 3 {
			_, _, err = media.Read(buf, interceptor.Attributes{})
			require.NoError(t, err)
		}
		_, _, err = reader.Read(buf, interceptor.Attributes{})
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		var lost, reports int
		for len(sent) > 0 {
			switch p := (<-sent).(type) {
			case *rtcp.TransportLayerNack:
				lost++
			case *rtcp.ReceiverReport:
				if len(p.Reports) == 1 && p.Reports[0].LastSenderReport == 0xccddeeff {
					reports++
				}
			}
		}
		require.Positive(t, lost)
		require.Positive(t, reports, "the sender's report was seen")
		require.NoError(t, i.Close())
	})
}
