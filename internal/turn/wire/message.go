package wire

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
)

// Sizes and marks of the formats, in bytes.
const (
	HeaderSize  = 20 // of a STUN message (RFC 8489 section 5)
	ChannelSize = 4  // of the header of ChannelData (RFC 8656 section 12.4)
	cookie      = 0x2112A442

	integritySize       = 20
	integritySHA256Size = 32 // the longest; 16 to 32 are allowed, in steps of 4
	fingerprintXOR      = 0x5354554e
)

// Method is a STUN method (RFC 8489 section 18.2, RFC 8656 section 17).
type Method uint16

// The methods that a relay knows.
const (
	Binding          Method = 0x001
	Allocate         Method = 0x003
	Refresh          Method = 0x004
	Send             Method = 0x006
	Data             Method = 0x007
	CreatePermission Method = 0x008
	ChannelBind      Method = 0x009
)

func (m Method) String() string {
	switch m {
	case Binding:
		return "Binding"
	case Allocate:
		return "Allocate"
	case Refresh:
		return "Refresh"
	case Send:
		return "Send"
	case Data:
		return "Data"
	case CreatePermission:
		return "CreatePermission"
	case ChannelBind:
		return "ChannelBind"
	}
	return "other"
}

// Class is a STUN class.
type Class uint8

// The four classes.
const (
	Request Class = iota
	Indication
	Success
	Failure
)

// Attr is the type of an attribute. Those below 0x8000 must be understood by who reads them.
type Attr uint16

// The attributes (RFC 8489 section 18.3, RFC 8656 section 18).
const (
	AttrUsername           Attr = 0x0006
	AttrIntegrity          Attr = 0x0008
	AttrErrorCode          Attr = 0x0009
	AttrUnknown            Attr = 0x000A
	AttrChannelNumber      Attr = 0x000C
	AttrLifetime           Attr = 0x000D
	AttrXORPeerAddress     Attr = 0x0012
	AttrData               Attr = 0x0013
	AttrRealm              Attr = 0x0014
	AttrNonce              Attr = 0x0015
	AttrXORRelayedAddress  Attr = 0x0016
	AttrRequestedFamily    Attr = 0x0017
	AttrEvenPort           Attr = 0x0018
	AttrRequestedTransport Attr = 0x0019
	AttrDontFragment       Attr = 0x001A
	AttrIntegritySHA256    Attr = 0x001C
	AttrPasswordAlgorithm  Attr = 0x001D
	AttrUserhash           Attr = 0x001E
	AttrXORMappedAddress   Attr = 0x0020
	AttrReservationToken   Attr = 0x0022
	AttrPriority           Attr = 0x0024 // of ICE, as the next
	AttrUseCandidate       Attr = 0x0025
	AttrAdditionalFamily   Attr = 0x8000
	AttrAddressError       Attr = 0x8001
	AttrPasswordAlgorithms Attr = 0x8002
	AttrICMP               Attr = 0x8004
	AttrAlternateServer    Attr = 0x8023
	AttrFingerprint        Attr = 0x8028
)

const (
	requiredUpTo = 0x7FFF // attributes up to here must be understood
	maxAttrs     = 32     // read in one message: a browser sends at most ten
	maxUnknown   = 8      // named in a 420
)

// understood reports whether an attribute that must be understood is.
func (a Attr) understood() bool {
	switch a {
	case AttrUsername, AttrIntegrity, AttrErrorCode, AttrUnknown, AttrChannelNumber, AttrLifetime, AttrXORPeerAddress, AttrData,
		AttrRealm, AttrNonce, AttrXORRelayedAddress, AttrRequestedFamily, AttrEvenPort, AttrRequestedTransport, AttrDontFragment,
		AttrIntegritySHA256, AttrPasswordAlgorithm, AttrUserhash, AttrXORMappedAddress, AttrReservationToken, AttrPriority, AttrUseCandidate:
		return true
	}
	return a > requiredUpTo
}

// ErrMalformed is what is neither STUN nor damaged in a way that has an answer.
var ErrMalformed = errors.New("wire: not a STUN message")

// Message is a STUN message that lies in somebody's buffer. It is good until that buffer is used again.
type Message struct {
	Raw    []byte
	Method Method
	Class  Class

	attrs    [maxAttrs]place
	n        int
	unknown  [maxUnknown]Attr
	unknowns int
	print    int // offset of FINGERPRINT; 0: none
}

// place is one attribute's value in Raw.
type place struct {
	typ        Attr
	start, end int
}

// IsMessage tells STUN from what else comes on the socket by its first bytes (RFC 7983, RFC 8489 section 6.3).
func IsMessage(b []byte) bool {
	return len(b) >= HeaderSize && b[0]>>6 == 0 && binary.BigEndian.Uint32(b[4:]) == cookie
}

// Parse reads b, which m then keeps. What follows MESSAGE-INTEGRITY is not read, as section 14.5 demands, but for the two
// attributes that may.
func (m *Message) Parse(b []byte) error {
	if !IsMessage(b) || int(binary.BigEndian.Uint16(b[2:]))+HeaderSize != len(b) || len(b)&3 != 0 {
		return ErrMalformed
	}
	typ := binary.BigEndian.Uint16(b)
	m.Raw, m.n, m.unknowns, m.print = b, 0, 0, 0
	m.Method = Method(typ&0xF | typ>>1&0x70 | typ>>2&0xF80)
	m.Class = Class(typ>>4&1 | typ>>7&2)
	for at, sealed := HeaderSize, Attr(0); at < len(b); {
		p := place{Attr(binary.BigEndian.Uint16(b[at:])), at + 4, at + 4 + int(binary.BigEndian.Uint16(b[at+2:]))}
		if p.end > len(b) || m.n == maxAttrs || m.print != 0 {
			return ErrMalformed // FINGERPRINT is the last (section 14.7)
		}
		switch {
		case p.typ == AttrFingerprint:
			m.print = at
			m.keep(p)
		case sealed == AttrIntegritySHA256, sealed == AttrIntegrity && p.typ != AttrIntegritySHA256:
		default:
			m.keep(p)
			if p.typ == AttrIntegrity || p.typ == AttrIntegritySHA256 {
				sealed = p.typ
			}
		}
		at = (p.end + 3) &^ 3
	}
	return nil
}

func (m *Message) keep(p place) {
	m.attrs[m.n] = p
	m.n++
	if !p.typ.understood() && m.unknowns < maxUnknown {
		m.unknown[m.unknowns] = p.typ
		m.unknowns++
	}
}

// Unknown are attributes that the reader would have to understand, and does not.
func (m *Message) Unknown() []Attr { return m.unknown[:m.unknowns] }

// Transaction is the transaction id.
func (m *Message) Transaction() []byte { return m.Raw[8:HeaderSize] }

// Get gives the value of the first attribute of a type; ok is false without one.
func (m *Message) Get(a Attr) (value []byte, ok bool) {
	if p := m.find(a); p != nil {
		return m.Raw[p.start:p.end], true
	}
	return nil, false
}

func (m *Message) find(a Attr) *place {
	for i := range m.attrs[:m.n] {
		if p := &m.attrs[i]; p.typ == a {
			return p
		}
	}
	return nil
}

// Has reports whether there is an attribute of a type.
func (m *Message) Has(a Attr) bool { return m.find(a) != nil }

// Uint32 reads an attribute of exactly four bytes.
func (m *Message) Uint32(a Attr) (v uint32, ok bool) {
	b, ok := m.Get(a)
	if !ok || len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// Peers calls each for every XOR-PEER-ADDRESS until it returns false; ok is false for a damaged one.
func (m *Message) Peers(each func(ap netip.AddrPort, ok bool) bool) {
	for i := range m.attrs[:m.n] {
		if p := &m.attrs[i]; p.typ == AttrXORPeerAddress && !each(m.xor(m.Raw[p.start:p.end])) {
			return
		}
	}
}

// Peer is the first XOR-PEER-ADDRESS.
func (m *Message) Peer() (netip.AddrPort, bool) { return m.Address(AttrXORPeerAddress) }

// Address reads an XORed address (RFC 8489 section 14.2).
func (m *Message) Address(a Attr) (netip.AddrPort, bool) {
	v, ok := m.Get(a)
	if !ok {
		return netip.AddrPort{}, false
	}
	return m.xor(v)
}

func (m *Message) xor(v []byte) (netip.AddrPort, bool) {
	if len(v) < 8 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(v[2:]) ^ cookie>>16
	switch {
	case v[1] == FamilyIPv4 && len(v) == 8:
		ip := [4]byte(v[4:8])
		for i := range ip {
			ip[i] ^= m.Raw[4+i]
		}
		return netip.AddrPortFrom(netip.AddrFrom4(ip), port), true
	case v[1] == FamilyIPv6 && len(v) == 20:
		ip := [16]byte(v[4:20])
		for i := range ip {
			ip[i] ^= m.Raw[4+i] // the cookie, then the transaction id
		}
		return netip.AddrPortFrom(netip.AddrFrom16(ip), port), true
	}
	return netip.AddrPort{}, false
}

// Families of addresses (RFC 8489 section 14.1).
const (
	FamilyIPv4 = 1
	FamilyIPv6 = 2
)

// Fingerprinted reports whether there is a FINGERPRINT, and whether it is right (RFC 8489 section 14.7).
func (m *Message) Fingerprinted() (there, right bool) {
	if m.print == 0 {
		return false, true
	}
	v, ok := m.Uint32(AttrFingerprint)
	return true, ok && v == crc32.ChecksumIEEE(m.Raw[:m.print])^fingerprintXOR
}

// Channel reads ChannelData in a datagram: the number and what it carries. Bytes beyond its length are padding.
func Channel(b []byte) (number uint16, data []byte, ok bool) {
	if len(b) < ChannelSize || b[0]>>6 != 1 {
		return 0, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if ChannelSize+n > len(b) {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(b), b[ChannelSize : ChannelSize+n], true
}

// FrameSize reads the length of the frame that begins a stream, and how many padding bytes follow it (RFC 8656 section
// 12.5), from its first four bytes.
func FrameSize(head []byte) (size, padding int, ok bool) {
	length := int(binary.BigEndian.Uint16(head[2:]))
	switch head[0] >> 6 {
	case 0: // STUN: its attributes are padded already
		return HeaderSize + length, 0, length%4 == 0
	case 1:
		return ChannelSize + length, -length & 3, true
	}
	return 0, 0, false
}
