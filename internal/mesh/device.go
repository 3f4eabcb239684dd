package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

// A name is also that of a file, and IFNAMSIZ is 16 with the final NUL.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,14}$`)

func validName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("mesh: %q is no name for an interface: 1 to 15 of A-Z a-z 0-9 _ - are needed", name)
	}
	return nil
}

// RunDevice is the life of a WireGuard interface in user space: it makes it, and moves its packets until ctx ends,
// when the interface is gone. It decides nothing: key, peers and address are given to it by the node's agent, over the
// UAPI socket /var/run/wireguard/NAME.sock and netlink.
func RunDevice(ctx context.Context, name string, log *slog.Logger) error {
	if err := validName(name); err != nil {
		return err
	}
	t, err := tun.CreateTUN(name, MTU)
	if err != nil {
		return fmt.Errorf("mesh: interface %s: %w; /dev/net/tun and CAP_NET_ADMIN are needed, and a name that is free", name, err)
	}
	dev := device.NewDevice(t, conn.NewDefaultBind(), &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { log.Warn("wireguard", "message", fmt.Sprintf(format, args...)) },
	})
	defer dev.Close()
	file, err := ipc.UAPIOpen(name)
	if err != nil {
		return fmt.Errorf("mesh: control socket of %s: %w", name, err)
	}
	defer file.Close()
	l, err := ipc.UAPIListen(name, file)
	if err != nil {
		return fmt.Errorf("mesh: control socket of %s: %w", name, err)
	}
	log.Info("the mesh interface is there", "interface", name)
	var served sync.WaitGroup
	served.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() { defer served.Done(); failed <- serveUAPI(ctx, l, dev) }()
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
		err = fmt.Errorf("mesh: control socket of %s: %w", name, err)
	case <-dev.Wait():
		err = errors.New("mesh: the interface was taken away")
	}
	cancel()
	err = errors.Join(err, l.Close())
	served.Wait()
	return err
}

// serveUAPI answers until the listener is closed; a conversation ends with ctx at the latest.
func serveUAPI(ctx context.Context, l net.Listener, dev *device.Device) error {
	var talks sync.WaitGroup
	defer talks.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		talks.Add(1)
		stop := context.AfterFunc(ctx, func() { c.Close() })
		go func() {
			defer talks.Done()
			defer stop()
			dev.IpcHandle(c)
		}()
	}
}
