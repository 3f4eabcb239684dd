package main

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
)

const (
	stampSize = 8 // bytes at the end of a payload: when it was sent, in Unix nanoseconds
	behind    = 200 * time.Millisecond
	idleLook  = 20 * time.Millisecond
)

// voice is what a person sends.
type voice struct {
	person       *person
	audio, video *webrtc.TrackLocalStaticRTP // video is nil of who is silent
	sender       *webrtc.RTPSender           // of audio
	level        uint8                       // the audio level's extension id, 0 without one; known when it speaks
	wantKey      atomic.Bool
	seqs         [2]uint16
	picture      uint16
	began        time.Time
}

func newVoice(p *person) (*voice, error) {
	v := &voice{person: p, began: time.Now(), picture: uint16(rand.Uint32())}
	var err error
	v.audio, err = webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "audio", "person")
	if err != nil {
		return nil, err
	}
	if v.sender, err = p.up.AddTrack(v.audio); err != nil {
		return nil, err
	}
	p.wg.Go(func() { v.readFeedback(v.sender) })
	if p.part == partSilent {
		return v, nil
	}
	v.video, err = webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, "video", "person")
	if err != nil {
		return nil, err
	}
	sender, err := p.up.AddTrack(v.video)
	if err != nil {
		return nil, err
	}
	p.wg.Go(func() { v.readFeedback(sender) })
	return v, nil
}

func (v *voice) readFeedback(s *webrtc.RTPSender) {
	for {
		packets, _, err := s.ReadRTCP()
		if err != nil {
			return
		}
		for _, x := range packets {
			switch x.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				v.wantKey.Store(true)
			}
		}
	}
}

// speak sends at the room's scale until the person leaves.
func (v *voice) speak() {
	p := v.person
	for _, x := range v.sender.GetParameters().HeaderExtensions {
		if x.URI == sdp.AudioLevelURI {
			v.level = uint8(x.ID)
		}
	}
	audioGap, timer := audioEvery, time.NewTimer(0)
	defer timer.Stop()
	if p.part == partSilent {
		audioGap = silentEvery
	}
	var audioAt, videoAt time.Time
	for idle := true; ; {
		select {
		case <-p.ctx.Done():
			return
		case <-timer.C:
		}
		scale, now := p.room.scale(), time.Now()
		if scale == 0 {
			idle = true
			timer.Reset(idleLook)
			continue
		}
		gap := func(d time.Duration) time.Duration { return time.Duration(float64(d) / scale) }
		if idle || now.Sub(audioAt) > behind+gap(audioGap) {
			audioAt = now.Add(time.Duration(rand.Float64() * float64(gap(audioGap))))
			videoAt = now.Add(time.Duration(rand.Float64() * float64(gap(frameEvery))))
			v.wantKey.Store(v.wantKey.Load() || idle)
			idle = false
		}
		for ; !now.Before(audioAt); audioAt = audioAt.Add(gap(audioGap)) {
			v.sayAudio()
		}
		next := audioAt
		if v.video != nil {
			for ; !now.Before(videoAt); videoAt = videoAt.Add(gap(frameEvery)) {
				v.sayFrame()
			}
			if videoAt.Before(next) {
				next = videoAt
			}
		}
		timer.Reset(time.Until(next))
	}
}

func (v *voice) sayAudio() {
	h := rtp.Header{Version: 2, Timestamp: uint32(time.Since(v.began).Seconds() * 48000)}
	if v.level != 0 {
		loud := byte(0x80 | 25)
		if v.video == nil {
			loud = 127
		}
		h.SetExtension(v.level, []byte{loud}) //nolint:errcheck // one byte fits
	}
	payload := make([]byte, audioBytes)
	payload[0] = 0x78 // one frame of 20 ms
	v.write(v.audio, 0, h, payload)
}

// sayFrame sends a frame of VP8 (RFC 7741): its parts at once.
func (v *voice) sayFrame() {
	key := v.wantKey.Swap(false)
	v.picture++
	at := uint32(time.Since(v.began).Seconds() * 90000)
	for part := range frameParts {
		payload := make([]byte, videoBytes)
		copy(payload, []byte{0x80, 0x80, 0x80 | byte(v.picture>>8)&0x7f, byte(v.picture)})
		if part == 0 {
			payload[0] |= 0x10
			payload[4] = 0x11
			if key {
				copy(payload[4:], []byte{0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01}) // 640 by 360
			}
		}
		v.write(v.video, 1, rtp.Header{Version: 2, Timestamp: at, Marker: part == frameParts-1}, payload)
	}
}

func (v *voice) write(t *webrtc.TrackLocalStaticRTP, kind int, h rtp.Header, payload []byte) {
	v.seqs[kind]++
	h.SequenceNumber = v.seqs[kind]
	binary.BigEndian.PutUint64(payload[len(payload)-stampSize:], uint64(time.Now().UnixNano())) //nolint:gosec // not negative
	v.person.room.due.Add(int64(v.person.room.people - 1))
	t.WriteRTP(&rtp.Packet{Header: h, Payload: payload}) //nolint:errcheck // what does not arrive is counted as such
}
