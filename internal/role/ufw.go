package role

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"orama.network/orama"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/firewall"
)

// hostFirewallSocket is where deploy/systemd's orama-firewall.socket listens, for the agent's user alone.
const hostFirewallSocket = "/run/orama-firewall.sock"

// ufwIdle is how long the helper waits for the next command before it ends; the socket starts it again.
const ufwIdle = 5 * time.Minute

// ufwCall is a command for ufw, and ufwAnswer what came of it.
type ufwCall struct {
	Args []string `json:"args"`
}

type ufwAnswer struct {
	Out string `json:"out"`
}

// firewallCommand is how a node runs ufw: under systemd its agent is not root, and a helper that is does it.
func firewallCommand(cfg config.Node) firewall.Command {
	if bySystemd(cfg) {
		return ufwOver(hostFirewallSocket)
	}
	return firewall.System
}

// ufwOver has the helper behind a socket run ufw.
func ufwOver(path string) firewall.Command {
	helper := dialUnit(path)
	return func(ctx context.Context, args ...string) (string, error) {
		var answer ufwAnswer
		if err := helper.do(ctx, http.MethodPost, "/v1/ufw", ufwCall{args}, &answer); err != nil {
			return "", orama.Errorf(orama.KindUnavailable, "firewall_failed", "'ufw %s' was not done; see journalctl -u orama-firewall: %v", strings.Join(args, " "), err)
		}
		return answer.Out, nil
	}
}

// Firewall is the life of the helper that runs ufw for an agent that may not: as root, started by systemd when the
// agent asks on its socket. It runs what keeps our own rules, and no other command.
func Firewall(ctx context.Context, log *slog.Logger) error {
	given, err := activation.Listeners()
	if err != nil {
		return err
	}
	if len(given) != 1 || given[0] == nil {
		return orama.Errorf(orama.KindInvalid, "no_socket", "systemd starts this command with a socket: systemctl start orama-firewall.socket")
	}
	return serveUFW(ctx, given[0], firewall.System, ufwIdle, log)
}

func serveUFW(ctx context.Context, l net.Listener, run firewall.Command, idle time.Duration, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bored := time.AfterFunc(idle, cancel)
	defer bored.Stop()
	turn := make(chan struct{}, 1) // ufw is run by one at a time
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/ufw", func(w http.ResponseWriter, r *http.Request) {
		var q ufwCall
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10)).Decode(&q); err != nil {
			http.Error(w, "the command cannot be read", http.StatusBadRequest)
			return
		}
		if err := allowedUFW(q.Args); err != nil {
			log.Warn("a command was refused", "error", err)
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		turn <- struct{}{}
		defer func() { <-turn }()
		bored.Reset(idle)
		// A command that has begun ends: ufw that is killed may have written a rule that the kernel does not have.
		bounded, done := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
		defer done()
		out, err := run(bounded, q.Args...)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if !ufwReads(q.Args) {
			log.Info("firewall changed", "rule", strings.Join(q.Args, " "))
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(ufwAnswer{out}) //nolint:errcheck // the reader went away
	})
	return serve(ctx, l, mux, time.Minute)
}

func ufwReads(args []string) bool {
	return slices.Equal(args, []string{"show", "added"}) || slices.Equal(args, []string{"status"})
}

var (
	ufwWord    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:/_,-]{0,79}$`)
	ufwComment = regexp.MustCompile(`^orama:[a-z0-9][a-z0-9:._-]{0,70}$`)
)

// ufwWords are those that a rule may be of beside addresses, ports and names of interfaces, which follow one of them.
var ufwWords = []string{"in", "out", "on", "from", "to", "any", "port", "proto", "app", "log", "log-all"}

// allowedUFW refuses what is not needed to keep our own rules, known by their comments: of an agent that was taken over, no
// firewall is opened beyond rules that bear our name, and none of the operator's is lost.
func allowedUFW(args []string) error {
	if ufwReads(args) {
		return nil
	}
	rule, actions := args, []string{"allow"}
	switch {
	case len(rule) > 0 && rule[0] == "delete":
		rule, actions = rule[1:], []string{"allow", "deny", "reject", "limit"}
	case len(rule) > 1 && rule[0] == "route" && rule[1] == "delete":
		rule, actions = rule[2:], []string{"allow", "deny", "reject", "limit"}
	}
	n := len(rule)
	if n < 4 || n > 24 || rule[n-2] != "comment" || !ufwComment.MatchString(rule[n-1]) {
		return errors.New("a rule whose comment begins with orama: is expected")
	}
	if !slices.Contains(actions, rule[0]) {
		return fmt.Errorf("%q is nothing that a rule of ours does", rule[0])
	}
	value := false
	for _, w := range rule[1 : n-2] {
		keyword := slices.Contains(ufwWords, w)
		if !ufwWord.MatchString(w) || !keyword && !value {
			return fmt.Errorf("%q has no place in a rule of ours", w)
		}
		value = keyword
	}
	return nil
}
