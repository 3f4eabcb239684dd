package sfu

import (
	"sync"
	"sync/atomic"

	"github.com/pion/interceptor"
)

// lateFeedback is what publishers are told, from when a peer publishes: requests for what was lost, receiver reports and transport-wide feedback are
// three goroutines of pion's for each peer, which wake ten times a second. Most peers of a large room never publish. It is an interceptor.Factory.
type lateFeedback struct{ registry *interceptor.Registry }

// NewInterceptor is pion's, for each PeerConnection.
func (f lateFeedback) NewInterceptor(id string) (interceptor.Interceptor, error) {
	return &feedback{build: func() (interceptor.Interceptor, error) { return f.registry.Build(id) }}, nil
}

// feedback is that of one peer.
type feedback struct {
	interceptor.NoOp
	build func() (interceptor.Interceptor, error)

	mu     sync.Mutex
	writer interceptor.RTCPWriter                  // guarded by mu
	closed bool                                    // guarded by mu
	inner  atomic.Pointer[interceptor.Interceptor] // nil: nothing is published
}

// BindRTCPWriter notes where feedback goes. What others write is not looked at.
func (f *feedback) BindRTCPWriter(w interceptor.RTCPWriter) interceptor.RTCPWriter {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writer = w
	return w
}

// BindRTCPReader lets sender reports be seen, as soon as somebody looks.
func (f *feedback) BindRTCPReader(r interceptor.RTCPReader) interceptor.RTCPReader {
	var seen interceptor.RTCPReader
	return interceptor.RTCPReaderFunc(func(b []byte, a interceptor.Attributes) (int, interceptor.Attributes, error) {
		if seen == nil {
			inner := f.inner.Load()
			if inner == nil {
				return r.Read(b, a)
			}
			seen = (*inner).BindRTCPReader(r)
		}
		return seen.Read(b, a)
	})
}

// BindRemoteStream begins with the first.
func (f *feedback) BindRemoteStream(s *interceptor.StreamInfo, r interceptor.RTPReader) interceptor.RTPReader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inner.Load() == nil {
		inner, err := f.build()
		if f.closed || err != nil { // it was built before: the registry has no other errors
			return r
		}
		inner.BindRTCPWriter(f.writer)
		f.inner.Store(&inner)
	}
	return (*f.inner.Load()).BindRemoteStream(s, r)
}

// UnbindRemoteStream forgets one.
func (f *feedback) UnbindRemoteStream(s *interceptor.StreamInfo) {
	if inner := f.inner.Load(); inner != nil {
		(*inner).UnbindRemoteStream(s)
	}
}

// Close ends it.
func (f *feedback) Close() error {
	f.mu.Lock()
	f.closed = true
	inner := f.inner.Load()
	f.mu.Unlock()
	if inner == nil {
		return nil
	}
	return (*inner).Close()
}
