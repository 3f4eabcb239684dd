package signal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

func TestLimits(t *testing.T) {
	str := func(n int) string { return strings.Repeat("x", n) }
	refs := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`{"mid":"0"},`, n), ",") + "]" }
	for _, tc := range []struct {
		name  string
		frame string // %s takes a string of n bytes
		max   int
	}{
		{"room", `{"type":"join","room":"%s"}`, signal.MaxID},
		{"name", `{"type":"join","name":"%s"}`, signal.MaxName},
		{"resume", `{"type":"join","resume":"%s"}`, signal.MaxID},
		{"moving_from", `{"type":"join","moving_from":"%s"}`, signal.MaxID},
		{"metadata", `{"type":"join","metadata":"%s"}`, signal.MaxMetadata - 2},
		{"mid", `{"type":"offer","sdp":"v","tracks":[{"mid":"%s"}]}`, 32},
		{"source", `{"type":"offer","sdp":"v","tracks":[{"mid":"0","source":"%s"}]}`, signal.MaxSource},
		{"track name", `{"type":"answer","sdp":"v","tracks":[{"mid":"0","name":"%s"}]}`, signal.MaxName},
		{"candidate", `{"type":"ice-candidate","candidate":{"candidate":"%s"}}`, 1024},
		{"sdpMid", `{"type":"ice-candidate","candidate":{"candidate":"","sdpMid":"%s"}}`, signal.MaxID},
		{"ufrag", `{"type":"ice-candidate","candidate":{"candidate":"","usernameFragment":"%s"}}`, 256},
		{"subscribe", `{"type":"subscribe","track_id":"%s"}`, signal.MaxID},
		{"unsubscribe", `{"type":"unsubscribe","track_id":"%s"}`, signal.MaxID},
		{"mute", `{"type":"mute","track_id":"%s","muted":true}`, signal.MaxID},
		{"prefer", `{"type":"prefer","track_id":"%s"}`, signal.MaxID},
		{"kick peer", `{"type":"kick","peer_id":"%s"}`, signal.MaxID},
		{"kick user", `{"type":"kick","user_id":"%s"}`, signal.MaxID},
		{"kick reason", `{"type":"kick","user_id":"u","reason":"%s"}`, signal.MaxReason},
		{"permit", `{"type":"permit","peer_id":"%s"}`, signal.MaxID},
		{"set-peer id", `{"type":"set-peer","peer_id":"%s"}`, signal.MaxID},
		{"set-peer name", `{"type":"set-peer","name":"%s"}`, signal.MaxName},
		{"set-peer metadata", `{"type":"set-peer","metadata":"%s"}`, signal.MaxMetadata - 2},
		{"set-room metadata", `{"type":"set-room","metadata":"%s"}`, signal.MaxMetadata - 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := signal.Decode(fmt.Appendf(nil, tc.frame, str(tc.max)))
			require.NoError(t, err)
			_, err = signal.Decode(fmt.Appendf(nil, tc.frame, str(tc.max+1)))
			requireInvalid(t, err)
		})
	}
	_, err := signal.Decode([]byte(`{"type":"offer","sdp":"v","tracks":` + refs(signal.MaxTrackRefs) + `}`))
	require.NoError(t, err)
	_, err = signal.Decode([]byte(`{"type":"offer","sdp":"v","tracks":` + refs(signal.MaxTrackRefs+1) + `}`))
	requireInvalid(t, err)
}

func requireInvalid(t *testing.T, err error) {
	t.Helper()
	var e *orama.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, orama.KindInvalid, e.Kind)
	require.Equal(t, signal.CodeInvalid, e.Code)
}

func TestInvalidFields(t *testing.T) {
	for _, frame := range []string{
		`{"type":"offer"}`, `{"type":"answer","sdp":""}`, `{"type":"offer","sdp":5}`,
		`{"type":"offer","sdp":"v","tracks":[{}]}`, `{"type":"subscribe"}`, `{"type":"mute","muted":true}`,
		`{"type":"negotiate","audio":-1}`, `{"type":"negotiate","video":17}`, `{"type":"negotiate","audio":1.5}`,
		`{"type":"last-n","videos":-1}`, `{"type":"last-n","videos":129}`, `{"type":"kick"}`, `{"type":"kick","peer_id":"p","user_id":"u"}`,
		`{"type":"permit"}`, `{"type":"mute","track_id":"t","locked":true}`, `{"type":"set-room","max_participants":-1}`,
		`{"type":"set-room","max_participants":10001}`, `{"type":"set-room","locked":1}`, `{"type":"set-peer","name":5}`,
		`{"type":"prefer","track_id":"t","max_width":-1}`, `{"type":"prefer","track_id":"t","max_fps":-1}`,
		`{"type":"join","auto_subscribe":"yes"}`, `{"type":"join","room":{}}`,
		`{"type":"ice-candidate","candidate":"candidate:1"}`, `{"type":"ping","t":"now"}`,
		`{"type":"ice-candidate","candidate":{"candidate":"","sdpMLineIndex":-1}}`,
	} {
		_, err := signal.Decode([]byte(frame))
		require.Error(t, err, frame)
		requireInvalid(t, err)
	}
}

func TestMalformed(t *testing.T) {
	for _, frame := range []string{
		"", " ", "{", "null", "true", "7", `"join"`, "[]", `[{"type":"join"}]`, "{}", `{"type":null}`, `{"type":5}`,
		`{"type":"join"}{"type":"join"}`, `{"type":"join",}`, "\x00", "\xff\xfe", `{'type':'join'}`,
		`{"type":"ping","t":1}` + strings.Repeat(" ", signal.MaxFrame),
	} {
		_, err := signal.Decode([]byte(frame))
		require.ErrorIs(t, err, signal.ErrMalformed, "%.40q", frame)
	}
}

func TestUnknownType(t *testing.T) {
	for _, name := range []string{"", "Join", "join ", "dance"} {
		_, err := signal.Decode(fmt.Appendf(nil, `{"type":%q}`, name))
		var u *signal.UnknownTypeError
		require.ErrorAs(t, err, &u)
		require.Equal(t, name, u.Name)
	}
	_, err := signal.Decode([]byte(`{"type":"` + strings.Repeat("A", 5000) + `"}`))
	require.Less(t, len(err.Error()), 200, "the error does not repeat a long name")
}

func FuzzDecode(f *testing.F) {
	for _, frame := range golden(f) {
		f.Add(frame)
	}
	for _, frame := range malformedFrames() {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		m, err := signal.Decode(frame)
		if err != nil {
			var u *signal.UnknownTypeError
			var e *orama.Error
			require.True(t, errors.As(err, &u) || errors.As(err, &e) && e.Kind == orama.KindInvalid, "%v", err)
			return
		}
		out, err := signal.Encode(m)
		require.NoError(t, err)
		require.True(t, json.Valid(out))
		if len(out) > signal.MaxFrame {
			return // escaping may make it longer
		}
		again, err := signal.Decode(out)
		if err != nil { // escaping of <, > and & may make raw metadata longer than its limit
			requireInvalid(t, err)
			return
		}
		third, err := signal.Encode(again)
		require.NoError(t, err)
		require.Equal(t, string(out), string(third))
	})
}
