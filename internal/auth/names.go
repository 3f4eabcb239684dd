package auth

import (
	"regexp"

	"orama.network/orama"
)

var namespacePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,38}[a-z0-9]$`)

// reserved names would collide with host names, units or rooms of the system itself.
var reserved = map[string]bool{
	"orama": true, "admin": true, "api": true, "www": true, "turn": true, "sfu": true, "gateway": true,
	"node": true, "system": true, "default": true, "localhost": true, "internal": true, "root": true,
}

// ValidNamespace checks a namespace's form. Reserved names pass: they are refused only at creation.
func ValidNamespace(name string) error {
	if !namespacePattern.MatchString(name) {
		return orama.Errorf(orama.KindInvalid, "invalid_namespace",
			"a namespace is 2 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit")
	}
	return nil
}

// NewNamespace checks a name that is about to be created.
func NewNamespace(name string) error {
	if err := ValidNamespace(name); err != nil {
		return err
	}
	if reserved[name] {
		return orama.Errorf(orama.KindInvalid, "reserved_namespace", "the name %q is reserved; choose another", name)
	}
	return nil
}

// ValidRoom checks a room's name: 1 to 128 bytes of printable ASCII without space, quote, slash or backslash.
// Names beginning with '_' belong to the system.
func ValidRoom(name string) error {
	if name == "" || len(name) > 128 {
		return orama.Errorf(orama.KindInvalid, "invalid_room", "a room's name is 1 to 128 bytes long")
	}
	if name[0] == '_' {
		return orama.Errorf(orama.KindInvalid, "invalid_room", "a room's name does not begin with '_'")
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || c == '"' || c == '/' || c == '\\' || c == '?' || c == '#' {
			return orama.Errorf(orama.KindInvalid, "invalid_room", "a room's name is printable ASCII without space or any of \" / \\ ? #")
		}
	}
	return nil
}
