//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
)

// impairment is what is wrong with a client's access. This kernel has no netem: a token bucket limits the rate, nftables
// loses packets, and a queue to this process holds them back.
type impairment struct {
	name string
	rate string        // of what comes down, as tc writes it; "" for as much as there is
	loss int           // percent of what comes down
	each time.Duration // that every packet is held back, both ways
}

// apply makes the access of a client on port n of the bridge so, until the function it gives is called.
func (i impairment) apply(t testing.TB, ns string, n int) (lift func()) {
	t.Helper()
	var undo []func()
	if i.rate != "" {
		port := fmt.Sprintf("port%d", n)
		// 150 ms of queue: what an access router has, and short enough to be felt as loss by who does not yield.
		in(t, labSwitch, fmt.Sprintf("tc qdisc replace dev %s root tbf rate %s burst 3kb latency 150ms", port, i.rate))
		undo = append(undo, func() { in(t, labSwitch, "tc qdisc del dev "+port+" root") })
	}
	if i.loss > 0 {
		in(t, ns, "nft add table ip worse")
		in(t, ns, "nft add chain ip worse down { type filter hook input priority 0 ; }")
		in(t, ns, fmt.Sprintf("nft add rule ip worse down meta l4proto udp numgen random mod 100 < %d drop", i.loss))
		undo = append(undo, func() { in(t, ns, "nft delete table ip worse") })
	}
	if i.each > 0 {
		undo = append(undo, hold(t, ns, i.each))
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}

// nfnetlink_queue's messages and attributes (linux/netfilter/nfnetlink_queue.h).
const (
	queuePacket, queueVerdict, queueConfig = 3 << 8, 3<<8 | 1, 3<<8 | 2
	configCommand, configParams, configMax = 1, 2, 3
	attributePacket, attributeVerdict      = 1, 2
	theQueue                               = 7
)

// hold keeps every UDP packet of a namespace back for a while, by a queue to this process.
func hold(t testing.TB, ns string, d time.Duration) (lift func()) {
	t.Helper()
	at, err := os.Open("/run/netns/" + ns)
	require.NoError(t, err)
	c, err := netlink.Dial(12, &netlink.Config{NetNS: int(at.Fd())}) // NETLINK_NETFILTER
	require.NoError(t, err)
	at.Close()
	require.NoError(t, c.SetReadBuffer(8<<20))
	for _, a := range []netlink.Attribute{
		{Type: configCommand, Data: []byte{1, 0, 0, 0}},    // bind
		{Type: configParams, Data: []byte{0, 0, 0, 64, 1}}, // copy no more than the beginning
		{Type: configMax, Data: []byte{0, 0, 0x4e, 0x20}},  // packets in it: 20000
	} {
		_, err := c.Execute(queueMessage(queueConfig, netlink.Acknowledge, a))
		require.NoError(t, err)
	}
	type heldBack struct {
		id    uint32
		until time.Time
	}
	waiting := make(chan heldBack, 20000)
	var done sync.WaitGroup
	done.Go(func() {
		defer close(waiting)
		for {
			all, err := c.Receive()
			if err != nil {
				return
			}
			for _, m := range all {
				if id, ok := queued(m); ok {
					waiting <- heldBack{id, time.Now().Add(d)}
				}
			}
		}
	})
	done.Go(func() { // one after the other: a packet that is overtaken is asked for again, as if it were lost
		for h := range waiting {
			<-time.After(time.Until(h.until))
			verdict := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 1}, h.id) // accept
			_, _ = c.Send(queueMessage(queueVerdict, 0, netlink.Attribute{Type: attributeVerdict, Data: verdict}))
		}
	})
	rules := []string{"INPUT -p udp -j NFQUEUE --queue-num 7", "OUTPUT -p udp -j NFQUEUE --queue-num 7"}
	for _, r := range rules {
		in(t, ns, "iptables -I "+r)
	}
	return func() {
		for _, r := range rules {
			in(t, ns, "iptables -D "+r)
		}
		c.Close()
		done.Wait()
	}
}

func queueMessage(kind netlink.HeaderType, flags netlink.HeaderFlags, a netlink.Attribute) netlink.Message {
	b, err := netlink.MarshalAttributes([]netlink.Attribute{a})
	if err != nil {
		panic(err) // one attribute of a few bytes
	}
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | flags}, Data: append([]byte{0, 0, 0, theQueue}, b...)}
}

// queued gives the number by which the kernel knows a packet that it queued.
func queued(m netlink.Message) (uint32, bool) {
	if m.Header.Type != queuePacket || len(m.Data) < 4 {
		return 0, false
	}
	list, err := netlink.UnmarshalAttributes(m.Data[4:])
	if err != nil {
		return 0, false
	}
	for _, a := range list {
		if a.Type == attributePacket && len(a.Data) >= 4 {
			return binary.BigEndian.Uint32(a.Data), true
		}
	}
	return 0, false
}
