package role

import (
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// statusEvery is how often systemd is told how a process is when it keeps no watchdog.
const statusEvery = 5 * time.Second

// notifier tells systemd how this process is (sd_notify(3)); without systemd it does nothing. Each beat asks status
// anew, and status takes the locks that serving takes: one that is stuck for good stops the beats, and systemd's
// watchdog starts the process again.
type notifier struct {
	status   func() string
	stopping chan struct{}
	quit     chan struct{}
	done     chan struct{}
}

// notify says that this process serves, and begins the beats.
func notify(status func() string) *notifier {
	n := &notifier{status: status, stopping: make(chan struct{}), quit: make(chan struct{}), done: make(chan struct{})}
	if told, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+status()); !told || err != nil {
		close(n.done)
		return n
	}
	every := statusEvery
	if w, err := daemon.SdWatchdogEnabled(false); err == nil && w > 0 {
		every = min(every, w/3)
	}
	go n.run(every)
	return n
}

func (n *notifier) run(every time.Duration) {
	defer close(n.done)
	beat := time.NewTicker(every)
	defer beat.Stop()
	stopping := n.stopping
	for {
		select {
		case <-n.quit:
			return
		case <-stopping:
			say(daemon.SdNotifyStopping + "\nSTATUS=" + n.status())
			stopping = nil
		case <-beat.C:
			say(daemon.SdNotifyWatchdog + "\nSTATUS=" + n.status())
		}
	}
}

func say(state string) {
	_, _ = daemon.SdNotify(false, state) // nobody to tell but the one who does not listen
}

// ending says that this process ends; the beats go on while it drains. It is called once.
func (n *notifier) ending() { close(n.stopping) }

// close ends the beats.
func (n *notifier) close() {
	close(n.quit)
	<-n.done
}
