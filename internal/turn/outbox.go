package turn

import (
	"encoding/binary"
	"net"
	"sync"
	"time"
)

const (
	// maxOutbox is what may wait for a client on a connection, in bytes. More is lost, as it would be on a slow link: a
	// second of video, so that what arrives is not older than a call can use.
	maxOutbox = 256 << 10
	// keptOutbox is what an empty queue keeps of its memory, in bytes.
	keptOutbox = 16 << 10
	// writeWithin bounds one write: a client that takes nothing for so long is gone.
	writeWithin = 10 * time.Second
)

// outbox is what waits to be written to a connection. Whoever puts something there never waits for the client; one
// goroutine writes all there is at once.
type outbox struct {
	c       net.Conn
	records bool // each message is one Write of its own: DTLS
	wake    chan struct{}
	marked  bool // the worker's: it will call signal

	mu     sync.Mutex // guards the following
	buf    []byte
	ends   []int // of the messages in buf, with records
	closed bool
}

func newOutbox(c net.Conn, records bool) *outbox {
	return &outbox{c: c, records: records, wake: make(chan struct{}, 1)}
}

// put queues a message in parts; false when there is no room. Call signal after it.
func (o *outbox) put(head, body []byte, padding string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.roomLocked(len(head) + len(body) + len(padding)) {
		return false
	}
	o.buf = append(append(append(o.buf, head...), body...), padding...)
	o.endLocked()
	return true
}

// channel queues ChannelData; false when there is no room.
func (o *outbox) channel(number uint16, data []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.roomLocked(8 + len(data)) {
		return false
	}
	o.buf = binary.BigEndian.AppendUint16(o.buf, number)
	o.buf = binary.BigEndian.AppendUint16(o.buf, uint16(len(data))) //nolint:gosec // a datagram's length
	o.buf = append(o.buf, data...)
	o.buf = append(o.buf, "\x00\x00\x00"[:-len(data)&3]...) // RFC 8656 section 12.5; and clients read DTLS as a stream
	o.endLocked()
	return true
}

func (o *outbox) roomLocked(n int) bool { return !o.closed && len(o.buf)+n <= maxOutbox }

func (o *outbox) endLocked() {
	if o.records {
		o.ends = append(o.ends, len(o.buf))
	}
}

// signal has the writer look.
func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default: // it will
	}
}

// close ends run, after what is queued was written.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.signal()
}

// run writes until close, or until the client takes no more; then it closes the connection, whose reader ends the rest.
func (o *outbox) run() {
	var buf []byte
	var ends []int
	for {
		<-o.wake
		o.mu.Lock()
		buf, o.buf = o.buf, buf[:0]
		ends, o.ends = o.ends, ends[:0]
		closed := o.closed
		o.mu.Unlock()
		if o.write(buf, ends) != nil {
			o.close()
			o.c.Close() //nolint:errcheck // it takes no more
			return
		}
		if closed {
			return
		}
		if cap(buf) > keptOutbox {
			buf = nil
		}
	}
}

func (o *outbox) write(buf []byte, ends []int) error {
	if len(buf) == 0 {
		return nil
	}
	o.c.SetWriteDeadline(time.Now().Add(writeWithin)) //nolint:errcheck // the write tells
	if !o.records {
		_, err := o.c.Write(buf)
		return err
	}
	at := 0
	for _, end := range ends {
		if _, err := o.c.Write(buf[at:end]); err != nil {
			return err
		}
		at = end
	}
	return nil
}
