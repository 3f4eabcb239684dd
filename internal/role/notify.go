package role

import (
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	// statusEvery is how often systemd is told how a process is, if that is news.
	statusEvery = time.Second
	// aliveEvery is how often it is told that the process lives when it keeps no watchdog.
	aliveEvery = 10 * time.Second
)

// notifier tells systemd how this process is (sd_notify(3)); without systemd it does nothing. Each beat asks status
// anew, and status takes the locks that serving takes: one that is stuck for good stops the beats, and systemd's
// watchdog starts the process again.
type notifier struct {
	status   func() string
	told     string // by run alone
	stopping chan struct{}
	quit     func()
	quitting chan struct{}
	done     chan struct{}
}

// notify says that this process serves, and begins the beats.
func notify(status func() string) *notifier {
	n := &notifier{status: status, told: status(), stopping: make(chan struct{}), quitting: make(chan struct{}), done: make(chan struct{})}
	n.quit = sync.OnceFunc(func() { close(n.quitting) })
	if told, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+n.told); !told || err != nil {
		close(n.done)
		return n
	}
	every := aliveEvery
	if w, err := daemon.SdWatchdogEnabled(false); err == nil && w > 0 {
		every = w / 3
	}
	go n.run(every)
	return n
}

func (n *notifier) run(every time.Duration) {
	defer close(n.done)
	alive, look := time.NewTicker(every), time.NewTicker(min(every, statusEvery))
	defer alive.Stop()
	defer look.Stop()
	stopping := n.stopping
	for {
		select {
		case <-n.quitting:
			return
		case <-stopping:
			say(daemon.SdNotifyStopping)
			stopping = nil
		case <-alive.C:
			n.status()
			say(daemon.SdNotifyWatchdog)
		case <-look.C:
			if is := n.status(); is != n.told {
				n.told = is
				say("STATUS=" + is)
			}
		}
	}
}

func say(state string) {
	_, _ = daemon.SdNotify(false, state) // nobody to tell but the one who does not listen
}

// ending says that this process ends; the beats go on while it drains. It is called once.
func (n *notifier) ending() {
	if n != nil {
		close(n.stopping)
	}
}

// close ends the beats. Nothing is said afterwards.
func (n *notifier) close() {
	if n == nil {
		return
	}
	n.quit()
	<-n.done
}
