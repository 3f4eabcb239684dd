package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/testnet"
)

// Which TURN node and SFU node of the lab's addresses each server has. The SFU node after those
// has no server: its media address is where relayed packets are sent to.
var (
	turnNodes = map[string]int{oramaTURN: 0, pionTURN: 1, coturn: 2}
	sfuNodes  = map[string]int{oramaSFU: 0, pionSFU: 1}
)

const sinkNode = 2

// lab is the addresses, specs and gateway of a test network whose servers are children.
type lab struct {
	net      *testnet.Net
	children map[string]*child
}

func newLab() (*lab, error) {
	n, err := testnet.Start(testnet.Options{TURNNodes: len(turnNodes), SFUNodes: sinkNode + 1, Bare: true})
	if err != nil {
		return nil, err
	}
	return &lab{net: n, children: map[string]*child{}}, nil
}

func (l *lab) close() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(l.children)) {
		errs = append(errs, l.children[name].stop())
	}
	return errors.Join(append(errs, l.net.Close())...)
}

// open starts a server unless it runs.
func (l *lab) open(name string) (*child, error) {
	if c := l.children[name]; c != nil {
		return c, nil
	}
	var conf config
	var c *child
	var err error
	if k, ok := turnNodes[name]; ok {
		if conf.TURN, err = l.net.TURNSpec(k); err != nil {
			return nil, err
		}
	} else {
		conf.SFU = l.sfuSpec(sfuNodes[name])
	}
	if name == coturn {
		c, err = spawnCoturn(conf.TURN)
	} else {
		c, err = spawn(name, conf)
	}
	if err == nil {
		l.children[name] = c
	}
	return c, err
}

// sfuSpec has media go through our own TURN over UDP, whichever SFU is measured.
func (l *lab) sfuSpec(k int) plan.SFUSpec {
	spec := l.net.SFUSpec(testnet.Alpha, k)
	spec.Servers = slices.DeleteFunc(spec.Servers, func(s orama.TURNServer) bool {
		return s.Transport != "udp" || !strings.Contains(s.URL, l.net.TURNAddr(turnNodes[oramaTURN]).Addr().String())
	})
	return spec
}

// target sends all joins to one SFU.
func (l *lab) target(name string) error {
	c, err := l.open(name)
	if err != nil {
		return err
	}
	k := sfuNodes[name]
	to := testnet.Target{Namespace: testnet.Alpha, Node: l.net.SFUSpec(testnet.Alpha, k).Node, Boot: c.boot, Signal: l.net.Signal(testnet.Alpha, k)}
	l.net.Gateway.Direct(to)
	return nil
}

// spawnCoturn runs Debian's turnserver as one of ours would be configured.
func spawnCoturn(spec plan.TURNSpec) (*child, error) {
	t, port := spec.Tenants[0], strconv.Itoa(int(testnet.Ports.UDP))
	cmd := exec.Command("turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp", "--no-multicast-peers",
		"--allow-loopback-peers", "--log-file=/dev/null", "--pidfile=/dev/null", "--listening-ip="+spec.PublicIP.String(),
		"--listening-port="+port, "--relay-ip="+spec.RelayIP.String(), "--realm="+spec.Realm, "--use-auth-secret",
		"--static-auth-secret="+t.Secret, fmt.Sprintf("--min-port=%d", t.Relay.First), fmt.Sprintf("--max-port=%d", t.Relay.First+t.Relay.Count-1))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, cpu: func() (time.Duration, error) { return cpuOf(cmd.Process.Pid) }}
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		probe, err := net.ListenPacket("udp4", net.JoinHostPort(spec.PublicIP.String(), port))
		if err != nil {
			return c, nil // its port is taken: it listens
		}
		probe.Close()
	}
	return nil, errors.Join(errors.New("coturn does not listen"), c.stop())
}

// cpuOf reads another process's user and system time, which Linux tells in ticks of 10 ms.
func cpuOf(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("unknown format of /proc/PID/stat")
	}
	user, err1 := strconv.Atoi(fields[11]) // proc(5): fields 14 and 15; the first two are before the ')'
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}
