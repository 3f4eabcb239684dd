package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

const (
	realm      = "bench.test"
	tenants    = 8 // as many as the most allocations held at once need
	perTenant  = 800
	maxClients = tenants * perTenant
	relayFirst = 20000 // the first relay port; each tenant has perTenant of them
	lifetime   = 10 * time.Minute
)

// step is what a client asks next.
type step int

const (
	stepBare    step = iota // Allocate without a credential, answered by 401
	stepProven              // Allocate
	stepBind                // ChannelBind
	stepRefresh             // Refresh: an allocation is ours for two minutes until it has a channel
	stepRelease             // Refresh with a lifetime of 0
	stepDone
)

// dialogue is one client's signalling, whatever carries it.
type dialogue struct {
	next    step
	brief   bool           // the relay is given back at once, and no channel bound
	from    netip.Addr     // the client
	peer    netip.AddrPort // the channel's
	channel uint16
	user    string
	key     stun.MessageIntegrity
	nonce   []byte
	id      [stun.TransactionIDSize]byte // of the request under way
	relay   netip.AddrPort               // what was allocated
	stale   int                          // nonces refused in a row
}

// newDialogue is that of client i of a server; every perTenant clients are another tenant's.
func newDialogue(secret string, i int, peer netip.AddrPort) *dialogue {
	user, password := auth.MintTURN(secret, namespace(i/perTenant%tenants), time.Now().Add(time.Hour))
	return &dialogue{
		from: clientAddr(i), peer: peer, channel: 0x4000 + uint16(i%0x3fff), user: user,
		key: stun.NewLongTermIntegrity(user, realm, password),
	}
}

func namespace(k int) orama.NamespaceID { return orama.NamespaceID(fmt.Sprintf("bench%d", k)) }

// clientAddr spreads clients over the networks (/24) of 127.64.0.0/10, for servers ration what they answer to one.
func clientAddr(i int) netip.Addr {
	k := i >> 8
	return netip.AddrFrom4([4]byte{127, 64 + byte(k/254%64), byte(i), byte(1 + k%254)})
}

// request is what the client says next.
func (d *dialogue) request() ([]byte, error) {
	m := stun.New()
	m.WriteHeader()
	if err := m.NewTransactionID(); err != nil {
		return nil, err
	}
	d.id = m.TransactionID
	method := stun.MethodAllocate
	switch d.next {
	case stepBare, stepProven:
		m.Add(stun.AttrRequestedTransport, []byte{17, 0, 0, 0}) // UDP
	case stepBind:
		method = stun.MethodChannelBind
		m.Add(stun.AttrChannelNumber, []byte{byte(d.channel >> 8), byte(d.channel), 0, 0})
		peer := stun.XORMappedAddress{IP: d.peer.Addr().AsSlice(), Port: int(d.peer.Port())}
		if err := peer.AddToAs(m, stun.AttrXORPeerAddress); err != nil {
			return nil, err
		}
	case stepRefresh:
		method = stun.MethodRefresh
		m.Add(stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, uint32(lifetime.Seconds())))
	case stepRelease:
		method = stun.MethodRefresh
		m.Add(stun.AttrLifetime, make([]byte, 4))
	}
	m.SetType(stun.NewType(method, stun.ClassRequest))
	if d.next != stepBare {
		m.Add(stun.AttrUsername, []byte(d.user))
		m.Add(stun.AttrRealm, []byte(realm))
		m.Add(stun.AttrNonce, d.nonce)
		if err := d.key.AddTo(m); err != nil {
			return nil, err
		}
	}
	return m.Raw, nil
}

// answer takes the response to the request under way.
func (d *dialogue) answer(m *stun.Message) error {
	if m.Type.Class == stun.ClassErrorResponse {
		return d.refused(m)
	}
	d.stale = 0
	switch d.next {
	case stepBare:
		return errors.New("the server relays without a credential")
	case stepProven:
		var relay stun.XORMappedAddress
		if err := relay.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil {
			return err
		}
		ip, _ := netip.AddrFromSlice(relay.IP)
		d.relay = netip.AddrPortFrom(ip.Unmap(), uint16(relay.Port))
		d.next = stepBind
		if d.brief {
			d.next = stepRelease
		}
	case stepBind:
		d.next = stepRefresh
	default:
		d.next = stepDone
	}
	return nil
}

func (d *dialogue) refused(m *stun.Message) error {
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(m); err != nil {
		return err
	}
	nonce, err := m.Get(stun.AttrNonce)
	switch {
	case err == nil && code.Code == stun.CodeUnauthorized && d.next == stepBare:
		d.next = stepProven
	case err == nil && code.Code == stun.CodeStaleNonce && d.stale < 3:
		d.stale++
	default:
		return fmt.Errorf("step %d was refused: %s", d.next, code)
	}
	d.nonce = append([]byte(nil), nonce...)
	return nil
}
