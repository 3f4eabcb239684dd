package sfu

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/sfu/bwe"
)

// feedbackOf builds a message in which each packet is lost (below 0) or came so many ticks of 250 µs after the one before.
func feedbackOf(t require.TestingT, base uint16, reference uint32, deltas []int) []byte {
	m := &rtcp.TransportLayerCC{BaseSequenceNumber: base, PacketStatusCount: uint16(len(deltas)), ReferenceTime: reference}
	for i := 0; i < len(deltas); i += 7 {
		chunk := &rtcp.StatusVectorChunk{SymbolSize: rtcp.TypeTCCSymbolSizeTwoBit, SymbolList: make([]uint16, 7)}
		for k, d := range deltas[i:min(i+7, len(deltas))] {
			switch {
			case d < 0:
				continue
			case d < 256:
				chunk.SymbolList[k] = rtcp.TypeTCCPacketReceivedSmallDelta
			default:
				chunk.SymbolList[k] = rtcp.TypeTCCPacketReceivedLargeDelta
			}
			m.RecvDeltas = append(m.RecvDeltas, &rtcp.RecvDelta{Type: chunk.SymbolList[k], Delta: int64(d) * 250})
		}
		m.PacketChunks = append(m.PacketChunks, chunk)
	}
	size := m.MarshalSize()
	m.Header = rtcp.Header{Padding: size%4 != 0, Count: rtcp.FormatTCC, Type: rtcp.TypeTransportSpecificFeedback, Length: uint16((size+3)/4 - 1)}
	b, err := m.Marshal()
	require.NoError(t, err)
	return b
}

// What another implementation writes is read as it was meant.
func TestFeedbackIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := uint16(rapid.IntRange(0, 65535).Draw(t, "base"))
		reference := uint32(rapid.IntRange(0, twccWrap-1).Draw(t, "reference"))
		deltas := rapid.SliceOfN(rapid.IntRange(-300, 30000), 1, 200).Draw(t, "deltas")
		var a acks
		list := a.read(feedbackOf(t, base, reference, deltas))
		require.Len(t, list, len(deltas))
		at := time.Duration(int64(reference)+twccWrap) * twccUnit
		for i, d := range deltas {
			require.Equal(t, base+uint16(i), list[i].Seq)
			require.Equal(t, d >= 0, list[i].Received)
			if d >= 0 {
				at += time.Duration(d) * twccTick
				require.Equal(t, at, list[i].Arrival)
			}
		}
	})
}

// The receiver's clock runs over every 12 days, and messages may be overtaken.
func TestFeedbackClockRunsOver(t *testing.T) {
	var a acks
	var last time.Duration
	for i, reference := range []uint32{twccWrap - 2, twccWrap - 1, 1, 0, 3} {
		at := a.read(feedbackOf(t, 0, reference, []int{0}))[0].Arrival
		if i > 0 {
			want := []time.Duration{1, 2, -1, 3}[i-1] * twccUnit
			require.Equal(t, want, at-last)
		}
		last = at
	}
}

// A run and one-bit symbols are read as well; the draft's other two kinds of chunk.
func TestFeedbackChunks(t *testing.T) {
	m := []byte{0x80 | 15, 205, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 10, 0, 8, 0, 0, 1, 0,
		0x20, 3, // three with a small delta
		0x80 | 0x2a, 0, // 1 0 1 0 1, and nine that are beyond the count
		4, 4, 4, 8, 8, 8}
	binary.BigEndian.PutUint16(m[2:], uint16(len(m)/4-1))
	var a acks
	var got []bool
	for _, x := range a.read(m) {
		got = append(got, x.Received)
	}
	require.Equal(t, []bool{true, true, true, true, false, true, false, true}, got)
	require.Equal(t, time.Duration(twccWrap+1)*twccUnit+9*time.Millisecond, a.list[7].Arrival)
	for n := range m {
		require.Nil(t, (&acks{}).read(m[:n]), "cut off after %d bytes", n)
	}
}

// One datagram holds several reports; each reaches the section that it is about. What a publisher reports in is left alone as a whole.
func TestACompoundIsHeard(t *testing.T) {
	e := newEgress(newMetrics(), func() {})
	e.est, e.pace = bwe.New(start), bwe.NewPacer[parcel](start, bwe.Start)
	downs := map[uint32]*down{}
	for _, ssrc := range []uint32{2, 3} {
		u := ladder(start)
		u.sendRTCP = func([]rtcp.Packet) {}
		d := newDown(u, e)
		d.bound, d.from = &binding{writer: &nowhere{}, ssrc: ssrc, pt: 96}, (*u.layers.Load())[0]
		t.Cleanup(d.from.end)
		e.bind(d, d.bound)
		downs[ssrc] = d
	}
	report := &rtcp.ReceiverReport{SSRC: 1, Reports: []rtcp.ReceptionReport{{SSRC: 2, FractionLost: 10}, {SSRC: 9}, {SSRC: 3, FractionLost: 20}}}
	all, err := rtcp.Marshal([]rtcp.Packet{report, &rtcp.SourceDescription{Chunks: []rtcp.SourceDescriptionChunk{{Source: 1}}}})
	require.NoError(t, err)
	all = append(all, feedbackOf(t, 1, 7, []int{0})...)
	require.True(t, e.hear(all, start))
	require.EqualValues(t, 11, downs[2].heard.lost.Load())
	require.EqualValues(t, 21, downs[3].heard.lost.Load())
	require.True(t, e.heard)
	for ssrc, ask := range map[uint32]rtcp.Packet{2: &rtcp.PictureLossIndication{MediaSSRC: 2}, 3: &rtcp.FullIntraRequest{FIR: []rtcp.FIREntry{{SSRC: 3}}}} {
		require.False(t, downs[ssrc].from.waited.Load())
		b, err := ask.Marshal()
		require.NoError(t, err)
		require.True(t, e.hear(b, start))
		require.True(t, downs[ssrc].from.waited.Load(), "a keyframe was asked for")
	}

	both, err := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: 1, Reports: []rtcp.ReceptionReport{{SSRC: 2, FractionLost: 99}}}, &rtcp.SenderReport{SSRC: 1}})
	require.NoError(t, err)
	require.False(t, e.hear(both, start))
	require.EqualValues(t, 11, downs[2].heard.lost.Load(), "half of it would be read twice")
	require.False(t, e.hear(all[:len(all)-1], start), "one that is cut off")
}

// Whatever a client sends in place of feedback is read within bounds.
func FuzzFeedback(f *testing.F) {
	f.Add(feedbackOf(f, 65530, 77, []int{0, 1, -1, 300, 4, 5, -1, -1, 9}))
	f.Add([]byte{0x80 | 15, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 10, 0xff, 0xff, 0, 0, 1, 0, 0x1f, 0xff, 0xff, 0xff})
	e := newEgress(newMetrics(), func() {})
	e.est = bwe.New(start)
	e.pace = bwe.NewPacer[parcel](start, bwe.Start)
	d := newDown(ladder(start), e)
	d.bound = &binding{writer: &nowhere{}, ssrc: 2, pt: 96}
	e.bind(d, d.bound)
	now := start
	f.Fuzz(func(t *testing.T, b []byte) {
		now = now.Add(time.Millisecond)
		list := (&acks{}).read(slices.Clone(b))
		require.LessOrEqual(t, len(list), maxStatuses)
		e.feedback(slices.Clone(b), now)
		e.hear(slices.Clone(b), now)
		source := &tap{ssrc: 2, out: e}
		if len(b) > 1 && b[1] != rtcpSenderReport {
			source.Write(slices.Clone(b))
			d.told(slices.Clone(append(b, make([]byte, 8)...)), now)
		}
		require.LessOrEqual(t, e.est.Target(), bwe.Max)
		require.GreaterOrEqual(t, e.est.Target(), bwe.Min)
	})
}
