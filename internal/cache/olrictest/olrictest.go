// Package olrictest stands in for a cluster of Olric in tests: the commands of its Redis protocol that the cache uses, with their
// errors, and nothing that Olric does not have, such as GET and SET. All members share one memory; a key lives on no
// one member.
package olrictest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Cluster is some members. Its methods may be called from any goroutine.
type Cluster struct {
	Password string           // set before the first connection; "": none
	Now      func() time.Time // set before the first connection; times out values
	Without  string           // a command that this version does not have, in lower case; set before the first connection

	mu      sync.Mutex
	kept    map[string]entry // guarded by mu; by map, a zero byte, and key
	members []*member        // the fields of each guarded by mu
	asked   map[string]int   // guarded by mu; by command, in lower case
	hang    bool             // guarded by mu
	resume  chan struct{}    // guarded by mu; closed when hanging ends
}

type entry struct {
	value string
	until time.Time // zero: for ever
}

type member struct {
	addr  string
	l     net.Listener // nil while it is away
	conns map[net.Conn]bool
	alone map[string]entry // its own memory, when it is not in the cluster
	wg    sync.WaitGroup
}

// Start makes a cluster of n members on loopback.
func Start(n int) (*Cluster, error) {
	c := &Cluster{Now: time.Now, kept: map[string]entry{}, asked: map[string]int{}}
	for i := range n {
		c.members = append(c.members, &member{addr: "127.0.0.1:0", conns: map[net.Conn]bool{}})
		if err := c.Revive(i); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Close ends all members.
func (c *Cluster) Close() {
	c.Hang(false)
	for i := range c.members {
		c.Kill(i)
	}
}

// Addresses are the members', host:port.
func (c *Cluster) Addresses() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, m := range c.members {
		out = append(out, m.addr)
	}
	return out
}

// Kill ends a member at once: its connections break, and new ones are refused.
func (c *Cluster) Kill(i int) {
	c.mu.Lock()
	m := c.members[i]
	if m.l != nil {
		_ = m.l.Close()
		m.l = nil
	}
	for conn := range m.conns {
		_ = conn.Close()
	}
	c.mu.Unlock()
	m.wg.Wait()
}

// Revive starts a killed member again, on the address it had.
func (c *Cluster) Revive(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[i]
	l, err := net.Listen("tcp", m.addr)
	if err != nil {
		return err
	}
	m.l, m.addr = l, l.Addr().String()
	m.wg.Go(func() { c.accept(m, l) })
	return nil
}

// Hang keeps all answers back, or lets them go.
func (c *Cluster) Hang(hang bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hang == hang {
		return
	}
	if c.hang = hang; hang {
		c.resume = make(chan struct{})
	} else {
		close(c.resume)
	}
}

// Split takes a member out of the cluster: it has a memory of its own from now on.
func (c *Cluster) Split(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[i].alone = map[string]entry{}
}

// Asked is how often a command came, by its name in lower case.
func (c *Cluster) Asked(command string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[command]
}

// Keys are the keys that have not expired, in no order, without their maps.
func (c *Cluster) Keys() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for name := range c.kept {
		if _, ok := c.findLocked(c.kept, name); ok {
			_, key, _ := strings.Cut(name, "\x00")
			out = append(out, key)
		}
	}
	return out
}

func (c *Cluster) accept(m *member, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		if m.l != l { // killed meanwhile
			_ = conn.Close()
		} else {
			m.conns[conn] = true
			m.wg.Go(func() { c.serve(m, conn) })
		}
		c.mu.Unlock()
	}
}

func (c *Cluster) serve(m *member, conn net.Conn) {
	defer func() {
		_ = conn.Close()
		c.mu.Lock()
		delete(m.conns, conn)
		c.mu.Unlock()
	}()
	r := bufio.NewReader(conn)
	known := c.Password == ""
	for {
		args, err := readCommand(r)
		if err != nil {
			return
		}
		c.mu.Lock()
		resume := c.resume
		if !c.hang {
			resume = nil
		}
		c.mu.Unlock()
		if resume != nil {
			<-resume
		}
		var answer string
		switch command := strings.ToLower(args[0]); {
		case command == "auth" && len(args) == 2:
			if known = args[1] == c.Password; known {
				answer = "+OK\r\n"
			} else {
				answer = failure("WRONGPASS", "invalid username-password pair")
			}
		case !known:
			answer = failure("NOAUTH", "Authentication required.")
		default:
			answer = c.do(m, command, args[1:])
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

// readCommand reads an array of bulk strings.
func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readLength(r, '*')
	if err != nil || n < 1 || n > 64 {
		return nil, errors.Join(err, errors.New("a command is an array"))
	}
	args := make([]string, n)
	for i := range args {
		size, err := readLength(r, '$')
		if err != nil || size < 0 || size > 1<<20 {
			return nil, errors.Join(err, errors.New("an argument is a bulk string"))
		}
		buf := make([]byte, size+2)
		if _, err := io.ReadFull(r, buf); err != nil {
			return nil, err
		}
		args[i] = string(buf[:size])
	}
	return args, nil
}

func readLength(r *bufio.Reader, kind byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" || line[0] != kind {
		return 0, fmt.Errorf("%q instead of a length", line)
	}
	return strconv.Atoi(line[1:])
}

func failure(code, text string) string { return "-" + code + " " + text + "\r\n" }

func bulk(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }

// do answers a command. What follows its arguments is options.
func (c *Cluster) do(m *member, command string, args []string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[command]++
	needed := map[string]int{"ping": 0, "dm.put": 3, "dm.get": 2, "dm.del": 2, "dm.cas": 4, "dm.incr": 3, "dm.pexpire": 3}
	n, known := needed[command]
	switch {
	case !known || command == c.Without:
		return failure("ERR", "unknown command '"+command+"'")
	case len(args) < n:
		return failure("ERR", "wrong number of arguments for '"+command+"' command")
	case command == "ping":
		return "+PONG\r\n"
	}
	kept := c.kept
	if m.alone != nil {
		kept = m.alone
	}
	name := args[0] + "\x00" + args[1]
	old, there := c.findLocked(kept, name)
	switch command {
	case "dm.put":
		return c.putLocked(kept, name, args[2], args[3:], there)
	case "dm.get":
		if !there {
			return failure("KEYNOTFOUND", "key not found")
		}
		return bulk(old.value)
	case "dm.del":
		delete(kept, name)
		if there {
			return ":1\r\n"
		}
		return ":0\r\n"
	case "dm.cas":
		// An expected value of no bytes is none at all.
		if there != (args[2] != "") || there && old.value != args[2] {
			if there {
				return "*2\r\n:0\r\n" + bulk("\x00entry\x00"+old.value) // encoded in Olric's own way
			}
			return "*2\r\n:0\r\n$-1\r\n"
		}
		if answer := c.putLocked(kept, name, args[3], args[4:], there); answer[0] == '-' {
			return answer
		}
		return "*2\r\n:1\r\n$-1\r\n"
	case "dm.incr":
		by, err := strconv.Atoi(args[2])
		if err != nil {
			return failure("ERR", err.Error())
		}
		is, _ := strconv.Atoi(old.value)
		kept[name] = entry{strconv.Itoa(is + by), old.until}
		return fmt.Sprintf(":%d\r\n", is+by)
	}
	ms, err := strconv.ParseInt(args[2], 10, 64)
	switch {
	case err != nil:
		return failure("ERR", err.Error())
	case !there:
		return failure("KEYNOTFOUND", "key not found")
	}
	kept[name] = entry{old.value, c.Now().Add(time.Duration(ms) * time.Millisecond)}
	return "+OK\r\n"
}

func (c *Cluster) putLocked(kept map[string]entry, name, value string, options []string, there bool) string {
	e := entry{value: value}
	for len(options) > 0 {
		switch option := strings.ToUpper(options[0]); {
		case option == "NX" && there:
			return failure("KEYFOUND", "key found")
		case option == "XX" && !there:
			return failure("KEYNOTFOUND", "key not found")
		case option == "NX" || option == "XX":
			options = options[1:]
		case (option == "PX" || option == "EX") && len(options) > 1:
			n, err := strconv.ParseFloat(options[1], 64)
			if err != nil {
				return failure("ERR", err.Error())
			}
			unit := time.Millisecond
			if option == "EX" {
				unit = time.Second
			}
			e.until = c.Now().Add(time.Duration(n * float64(unit)))
			options = options[2:]
		default:
			return failure("ERR", "syntax error")
		}
	}
	kept[name] = e
	return "+OK\r\n"
}

func (c *Cluster) findLocked(kept map[string]entry, name string) (entry, bool) {
	e, there := kept[name]
	if there && !e.until.IsZero() && !c.Now().Before(e.until) {
		delete(kept, name)
		return entry{}, false
	}
	return e, there
}
