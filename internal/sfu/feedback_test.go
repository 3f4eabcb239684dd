package sfu

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/sfu/receive"
)

// pass lets time pass, in a bubble, and everything happen that falls due.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// numberedUp is a packet with a number for the transport in extension 3.
func numberedUp(seq, number uint16) []byte {
	b := make([]byte, rtpHeader+8, 100)
	header(b, 96, seq, 0, 7)
	b[0] |= 0x10
	copy(b[rtpHeader:], []byte{0xbe, 0xde, 0, 1, 3<<4 | 1, byte(number >> 8), byte(number)})
	return append(b, 1, 2, 3)
}

// What a publisher is told of its packets are the times that they were noted with, soon after they came and not for each; and nothing without packets.
func TestArrivalsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan []rtcp.Packet, 10)
		a := &arrivals{send: func(list []rtcp.Packet) { told <- list }}
		a.note(numberedUp(1, 100), time.Now())
		pass(time.Second)
		require.Empty(t, told, "nothing was negotiated")
		a.id.Store(3)
		for n := range 5 { // one is lost, and each was known 7 ms after it came
			pass(10 * time.Millisecond)
			if n != 3 {
				a.note(numberedUp(1, uint16(65_534+n)), time.Now().Add(-7*time.Millisecond))
				a.note(numberedUp(1, uint16(65_534+n)), time.Now())
			}
		}
		require.Empty(t, told)
		pass(feedbackEvery)
		b, err := (<-told)[0].Marshal()
		require.NoError(t, err)
		require.EqualValues(t, ownSSRC, binary.BigEndian.Uint32(b[4:]))
		list := (&acks{}).read(b)
		require.Len(t, list, 5)
		for n, ack := range list {
			require.Equal(t, uint16(65_534+n), ack.Seq)
			if require.Equal(t, n != 3, ack.Received); ack.Received {
				require.InDelta(t, 10*n, (ack.Arrival - list[0].Arrival).Milliseconds(), 1)
			}
		}
		pass(time.Minute)
		require.Empty(t, told)
		a.note(numberedUp(1, 3), time.Now())
		a.close()
		a.note(numberedUp(1, 4), time.Now())
		pass(time.Minute)
		require.Empty(t, told)
	})
}

// What is lost of a picture is asked for until it comes, by whichever way; what of sound, is not.
func TestWhatIsLostIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := ladder(time.Now())
		asked := make(chan []uint16, 10)
		u.sendRTCP = func(list []rtcp.Packet) {
			n := list[0].(*rtcp.TransportLayerNack)
			require.EqualValues(t, 7, n.MediaSSRC)
			var seqs []uint16
			for _, pair := range n.Nacks {
				seqs = append(seqs, pair.PacketList()...)
			}
			asked <- seqs
		}
		u.rtt = func() time.Duration { return 40 * time.Millisecond }
		l := &layer{up: u, ssrc: 7, reports: &reports{}, resends: true, reception: receive.Reception{Clock: 90_000}}
		p := packet{up: u, layer: l}
		take := func(seq uint16, resent bool) {
			b := make([]byte, rtpHeader)
			header(b, 96, seq, 0, 7)
			l.take(&p, append(b, 0x90, 0x80, 1, 0), resent)
		}
		take(10, false)
		take(13, false)
		synctest.Wait()
		require.Empty(t, asked)
		pass(15 * time.Millisecond)
		require.Equal(t, []uint16{11, 12}, <-asked)
		take(12, true)
		pass(50 * time.Millisecond)
		require.Equal(t, []uint16{11}, <-asked)
		take(11, true)
		l.reports.last = senderReport{ntp: 0x1234_5678_9abc_def0, at: time.Now()}
		pass(time.Second)
		require.Empty(t, asked)
		b, ok := l.received(time.Now())
		require.True(t, ok)
		require.EqualValues(t, 2, b.TotalLost, "of the stream itself")
		require.EqualValues(t, 0x5678_9abc, b.LastSenderReport)
		require.EqualValues(t, 65536, b.Delay)

		before := l.bits
		take(13, true)
		require.Equal(t, before, l.bits, "what was sent again and had come is no more of the picture")

		take(20, false)
		l.end()
		pass(time.Second)
		require.Empty(t, asked, "the encoding has ended")

		sound := &layer{up: u, ssrc: 7, reports: &reports{}}
		sound.hears(&p, false)
		p.hdr.SequenceNumber += 5
		sound.hears(&p, false)
		pass(time.Second)
		require.Empty(t, asked)
	})
}
