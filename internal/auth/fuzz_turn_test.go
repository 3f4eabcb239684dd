package auth_test

import (
	"strings"
	"testing"
	"time"

	"orama.network/orama/internal/auth"
)

// Whatever a stranger calls himself: the parser never panics, accepts one spelling of each pair, and
// what it accepts is what was minted.
func FuzzParseTURNUsername(f *testing.F) {
	for _, s := range []string{
		"1700000000:demo", "1:a1", "0:demo", "-1:demo", "+1:demo", "01:demo", "1700000000:", ":demo", ":", "",
		"9223372036854775807:demo", "9223372036854775808:demo", "1e9:demo", " 1:demo", "1:demo ", "1:Demo",
		"1:demo:demo", "1:-demo", "1:demo-", "1:d", "1\x00:demo", "1:\xff\xfe", "1:" + strings.Repeat("a", 41),
		strings.Repeat("9", 65) + ":demo", "１:demo",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, username string) {
		expiry, ns, err := auth.ParseTURNUsername(username)
		if err != nil {
			if ns != "" || !expiry.IsZero() {
				t.Fatal("an error with a value")
			}
			return
		}
		if len(username) > auth.MaxTURNUsername || auth.ValidNamespace(string(ns)) != nil || expiry.Unix() <= 0 {
			t.Fatalf("%q was accepted", username)
		}
		again, credential := auth.MintTURN("secret", ns, expiry)
		if again != username {
			t.Fatalf("%q is another spelling of %q", username, again)
		}
		if !auth.EqualTURN(credential, auth.TURNCredential("secret", username)) || auth.EqualTURN(credential, auth.TURNCredential("other", username)) {
			t.Fatal("a credential that is not the username's")
		}
	})
}

func TestMintedTURNUsernameParses(t *testing.T) {
	at := time.Unix(1900000000, 0)
	user, _ := auth.MintTURN(auth.NewTURNSecret(), "demo", at)
	expiry, ns, err := auth.ParseTURNUsername(user)
	if err != nil || ns != "demo" || !expiry.Equal(at) {
		t.Fatalf("%q: %v %v %v", user, expiry, ns, err)
	}
}
