// Package datachannel reads data channels that are detached from pion: it reads each into 64 KiB of its own, and holds every channel that a connection ever had, with all that its
// callbacks know, until the connection ends.
package datachannel

import (
	"bytes"
	"errors"
	"io"
)

const (
	// small is what a channel is read into, in bytes; a message that is larger has memory of its own. In a room where everybody writes there is one for each pair of peers.
	small = 512
	// largest is the memory for the largest message that is read at all, in bytes: SCTP's window is 1 MiB.
	largest = 2 << 20
)

// Reader is a detached data channel. What it has no room for, which it says with io.ErrShortBuffer, stays there to be read.
type Reader interface {
	ReadDataChannel(b []byte) (n int, isString bool, err error)
}

// Read gives what comes, each message in memory of its own, until the channel has ended.
func Read(from Reader, got func(data []byte, text bool)) {
	var kept [small]byte
	buf := kept[:]
	for {
		n, text, err := from.ReadDataChannel(buf)
		switch {
		case errors.Is(err, io.ErrShortBuffer) && len(buf) < largest:
			buf = make([]byte, 8*len(buf))
			continue
		case err != nil:
			return
		}
		data := buf[:n]
		if len(buf) == small || n < len(buf)/2 {
			data = bytes.Clone(data)
		}
		got(data, text)
		buf = kept[:]
	}
}
