package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"orama.network/orama"
)

const (
	// TicketTTL is the life of a join ticket.
	TicketTTL = 30 * time.Second
	// maxTickets bounds the ids one verifier remembers: at 30 s each, above 2000 joins a second.
	maxTickets = 1 << 16
	// maxTransports bounds what a ticket may list; the protocol has four.
	maxTransports = 8
)

// Ticket is what a gateway proves itself with at an SFU: once, for one connection, at one process.
type Ticket struct {
	Namespace  orama.NamespaceID
	Node       orama.NodeID // the SFU's
	Boot       string       // the SFU process's; another has lost the room
	Room       orama.RoomID // "": for the control of all rooms; then Admin is true
	User       orama.UserID
	Publish    bool
	Subscribe  bool
	Data       bool
	Admin      bool
	Transports []string  // which TURN URLs the peer is told of; nil: the default ones
	ID         string    // filled by MintTicket when empty
	Granted    time.Time // when the client's token was issued, in whole seconds; zero: not known
	Issued     time.Time // filled by MintTicket when zero: now
	Expires    time.Time // filled by MintTicket when zero: Issued + TicketTTL
}

// ticketClaims is Ticket on the wire.
type ticketClaims struct {
	jwt.RegisteredClaims
	Namespace  string   `json:"ns"`
	Node       string   `json:"node"`
	Boot       string   `json:"boot"`
	Room       string   `json:"room"`
	Publish    bool     `json:"publish"`
	Subscribe  bool     `json:"subscribe"`
	Data       bool     `json:"data"`
	Admin      bool     `json:"admin"`
	Transports []string `json:"transports,omitempty"`
	Granted    int64    `json:"granted,omitempty"` // Unix seconds
}

// MintTicket signs a ticket.
func (k *Keys) MintTicket(t Ticket) (string, error) {
	if t.ID == "" {
		t.ID = newID()
	}
	if t.Issued.IsZero() {
		t.Issued = time.Now()
	}
	if t.Expires.IsZero() {
		t.Expires = t.Issued.Add(TicketTTL)
	}
	return k.ticket.sign(ticketClaims{
		RegisteredClaims: registered(audienceTicket, t.User, t.ID, t.Issued, t.Expires),
		Namespace:        string(t.Namespace), Node: string(t.Node), Boot: t.Boot, Room: string(t.Room),
		Publish: t.Publish, Subscribe: t.Subscribe, Data: t.Data, Admin: t.Admin, Transports: t.Transports,
		Granted: unixOf(t.Granted),
	})
}

// unixOf is t in Unix seconds, and 0 for the zero time.
func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// TicketKey is the base64url public key that tickets verify with: all that an SFU is told.
func (k *Keys) TicketKey() string { return base64.RawURLEncoding.EncodeToString(k.ticket.public) }

// TicketVerifier accepts every good ticket once. Safe for concurrent use.
type TicketVerifier struct {
	public ed25519.PublicKey
	kid    string
	max    int

	mu   sync.Mutex
	seen map[string]time.Time // guarded by mu; ticket id → its expiry
	next time.Time            // guarded by mu; no entry of seen expires before it
}

// NewTicketVerifier takes the key that Keys.TicketKey gave.
func NewTicketVerifier(ticketKey string) (*TicketVerifier, error) {
	raw, err := base64.RawURLEncoding.DecodeString(ticketKey)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_ticket_key", "the ticket key is not 32 bytes of base64url")
	}
	public := ed25519.PublicKey(raw)
	return &TicketVerifier{public: public, kid: thumbprint(public), max: maxTickets, seen: map[string]time.Time{}}, nil
}

var (
	errTicketUsed = orama.Errorf(orama.KindUnauthenticated, "ticket_used", "the ticket was used before")
	errTickets    = orama.Errorf(orama.KindLimited, "too_many_tickets", "too many joins at once; try again")
)

// Verify checks a ticket and uses it up. Errors are of KindUnauthenticated, or of KindLimited
// when more tickets are remembered than memory is set aside for. Whether the ticket is for this
// namespace, node and boot is the caller's question.
func (v *TicketVerifier) Verify(raw string, now time.Time) (Ticket, error) {
	var c ticketClaims
	if err := verify(raw, v.public, v.kid, audienceTicket, now, &c); err != nil {
		return Ticket{}, err
	}
	t := Ticket{
		Namespace: orama.NamespaceID(c.Namespace), Node: orama.NodeID(c.Node), Boot: c.Boot,
		Room: orama.RoomID(c.Room), User: orama.UserID(c.Subject),
		Publish: c.Publish, Subscribe: c.Subscribe, Data: c.Data, Admin: c.Admin,
		Transports: c.Transports, ID: c.ID, Expires: c.ExpiresAt.Time,
	}
	if c.Granted > 0 {
		t.Granted = time.Unix(c.Granted, 0)
	}
	if c.IssuedAt != nil {
		t.Issued = c.IssuedAt.Time
	}
	if !t.valid(now) {
		return Ticket{}, errToken
	}
	return t, v.use(t.ID, t.Expires, now)
}

// valid checks the form of the claims. A ticket of long life would have to be remembered as long.
func (t Ticket) valid(now time.Time) bool {
	if ValidNamespace(string(t.Namespace)) != nil || t.Node == "" || t.ID == "" || len(t.ID) > 64 {
		return false
	}
	if t.Expires.Sub(now) > 2*TicketTTL || len(t.Transports) > maxTransports {
		return false
	}
	if t.Room == "" {
		return t.Admin
	}
	room := string(t.Room)
	if system, ok := strings.CutPrefix(room, "_"); ok { // no client can name such a room
		if !t.Admin {
			return false
		}
		room = system
	}
	return ValidRoom(room) == nil && ValidUser(string(t.User)) == nil
}

func (v *TicketVerifier) use(id string, expires, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if until, ok := v.seen[id]; ok && now.Before(until) {
		return errTicketUsed
	}
	if len(v.seen) >= v.max || now.After(v.next) {
		v.forgetLocked(now)
	}
	if len(v.seen) >= v.max {
		return errTickets
	}
	v.seen[id] = expires
	return nil
}

// forgetLocked drops expired ids. It runs at most once a TTL unless memory is short.
func (v *TicketVerifier) forgetLocked(now time.Time) {
	for id, until := range v.seen {
		if !now.Before(until) {
			delete(v.seen, id)
		}
	}
	v.next = now.Add(TicketTTL)
}
