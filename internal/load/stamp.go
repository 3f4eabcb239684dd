package load

import (
	"encoding/binary"
	"time"

	"orama.network/orama/client"
	"orama.network/orama/client/media"
)

// A stamp is the last bytes of a frame: which run sent it and when. It is behind what a decoder reads: in the padding of
// an Opus packet (RFC 6716, section 3.2.5), after the last partition of a VP8 frame (RFC 6386, section 9.5). So whoever looks
// into a room of the load sees the clip and hears the tone.
const stampSize = 12

// began is what stamps count from. Sender and receiver are one process, so one clock measures both ends.
var began = time.Now()

func now() time.Duration { return time.Since(began) }

func putStamp(b []byte, run uint32, at time.Duration) {
	binary.BigEndian.PutUint32(b, run)
	binary.BigEndian.PutUint64(b[4:], uint64(at)) //nolint:gosec // not negative
}

// readStamp gives when a frame was sent, if it is this run's.
func readStamp(frame []byte, run uint32) (time.Duration, bool) {
	if len(frame) < stampSize {
		return 0, false
	}
	b := frame[len(frame)-stampSize:]
	if binary.BigEndian.Uint32(b) != run {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint64(b[4:])), true //nolint:gosec // our own
}

// toneFrames are the tone's packets with room for a stamp in each.
func toneFrames() []client.Sample {
	out := media.Tone()
	for i, s := range out {
		// One frame of code 0 becomes one of code 3: a frame count with the padding flag, and the length of the padding.
		padded := append([]byte{s.Data[0] | 3, 1<<6 | 1, stampSize}, s.Data[1:]...)
		out[i].Data = append(padded, make([]byte, stampSize)...)
	}
	return out
}

// clipFrames are the clip's frames, each as long as the bitrate asks for and with room for a stamp.
func clipFrames(bitrate int) []client.Sample {
	out := media.Clip()
	for i, s := range out {
		size := max(len(s.Data)+stampSize, int(float64(bitrate)/8*s.Duration.Seconds()))
		frame := make([]byte, size)
		copy(frame, s.Data)
		out[i].Data = frame
	}
	return out
}

// LowestBitrate is that of the clip itself, in bits a second: frames can be made longer, not shorter.
func LowestBitrate() int {
	var bytes int
	var lasts time.Duration
	for _, s := range media.Clip() {
		bytes += len(s.Data) + stampSize
		lasts += s.Duration
	}
	return int(float64(bytes*8) / lasts.Seconds())
}
