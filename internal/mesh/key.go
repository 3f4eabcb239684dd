package mesh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// The files of a node's keys, each 44 characters of base64, readable by its owner alone: the key; the next one, while it
// is announced; and the last one, while others may still know this node by it.
const (
	nextSuffix = ".next"
	oldSuffix  = ".old"
)

// keys are a node's own keys.
type keys struct {
	path string
	now  wgtypes.Key
	next *wgtypes.Key // announced, not used yet
	old  *wgtypes.Key // no longer used, still announced
}

// EnsureKey gives the public key, base64, of the private key in a file, which is made when it is missing. Whatever was
// begun with other keys stays as it is.
func EnsureKey(path string) (public string, err error) {
	k, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err = newKey(path)
	}
	if err != nil {
		return "", err
	}
	return k.PublicKey().String(), nil
}

// openKeys reads a node's keys. A change of keys that had not come to its switch is forgotten; one that had goes on.
func openKeys(path string) (*keys, error) {
	if _, err := EnsureKey(path); err != nil {
		return nil, err
	}
	now, err := readKey(path)
	if err != nil {
		return nil, err
	}
	k := &keys{path: path, now: now}
	if _, err := os.Lstat(path + nextSuffix); err == nil {
		return k, errors.Join(remove(path+oldSuffix), remove(path+nextSuffix))
	}
	old, err := readKey(path + oldSuffix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		k.old = &old
	}
	return k, nil
}

// announced are the public keys that others may know this node by, the preferred first.
func (k *keys) announced() []wgtypes.Key {
	out := []wgtypes.Key{k.now.PublicKey()}
	for _, other := range []*wgtypes.Key{k.next, k.old} {
		if other != nil {
			out = append(out, other.PublicKey())
		}
	}
	return out
}

// begin makes the next key.
func (k *keys) begin() error {
	next, err := newKey(k.path + nextSuffix)
	if err != nil {
		return err
	}
	k.next = &next
	return nil
}

// turn makes the next key the key. The order is what openKeys relies on: while there is a next, the key is the one
// before.
func (k *keys) turn() error {
	if err := writeKey(k.path+oldSuffix, k.now); err != nil {
		return err
	}
	if err := rename(k.path+nextSuffix, k.path); err != nil {
		return err
	}
	was := k.now
	k.now, k.next, k.old = *k.next, nil, &was
	return nil
}

// back undoes turn.
func (k *keys) back() error {
	if err := rename(k.path+oldSuffix, k.path); err != nil {
		return err
	}
	k.now, k.next, k.old = *k.old, nil, nil
	return nil
}

// settle forgets the old key.
func (k *keys) settle() error {
	k.old = nil
	return remove(k.path + oldSuffix)
}

func newKey(path string) (wgtypes.Key, error) {
	k, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return k, fmt.Errorf("mesh key: %w", err)
	}
	return k, writeKey(path, k)
}

func readKey(path string) (wgtypes.Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("mesh key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return wgtypes.Key{}, fmt.Errorf("mesh key: %s is readable by others; make it so that only its owner reads it (chmod 600), or remove it for a new one", path)
	}
	if info.Size() > 100 {
		return wgtypes.Key{}, fmt.Errorf("mesh key: %s is not a WireGuard key", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("mesh key: %w", err)
	}
	k, err := wgtypes.ParseKey(strings.TrimSpace(string(text)))
	if err != nil || k == (wgtypes.Key{}) {
		return wgtypes.Key{}, fmt.Errorf("mesh key: %s is not a WireGuard key; restore it, or remove it and let this node join again", path)
	}
	return k, nil
}

func writeKey(path string, k wgtypes.Key) error {
	if err := writeFile(path, []byte(k.String()+"\n")); err != nil {
		return fmt.Errorf("mesh key: %w", err)
	}
	return nil
}

// writeFile replaces a file as a whole: after a loss of power there is the old one or the new one.
func writeFile(path string, text []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return rename(tmp, path)
}

func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(to)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
