package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/operator"
	"orama.network/orama/internal/role"
)

// localEnv is the cluster of this machine, which needs no entry.
const localEnv = "local"

// Limits of the environments file, in bytes, and of a key or certificate file that it names.
const (
	maxEnvironments = 256 << 10
	maxSecretFile   = 64 << 10
)

var environmentName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// environment is a cluster elsewhere: how to reach it and by which key.
type environment struct {
	Gateways []string `yaml:"gateways"`           // URLs, tried in order
	Key      string   `yaml:"key,omitempty"`      // an operator key
	KeyFile  string   `yaml:"key_file,omitempty"` // or the file that holds it
	CAFile   string   `yaml:"ca_file,omitempty"`  // PEM roots of the gateways' certificates, beside the system's
}

// environmentsFile is environments.yaml.
type environmentsFile struct {
	Environments map[string]environment `yaml:"environments"`
}

func environmentsPath() (string, error) {
	base := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", orama.Errorf(orama.KindInvalid, "no_home", "this user has no home directory; set XDG_CONFIG_HOME")
		}
		base = filepath.Join(home, ".config")
	}
	return filepath.Join(base, "orama", "environments.yaml"), nil
}

// parseEnvironments reads the file's text. A key that is not known is a mistake, and so is one that is not whole.
func parseEnvironments(text []byte) (environmentsFile, error) {
	var f environmentsFile
	if len(text) > maxEnvironments {
		return f, fmt.Errorf("it is larger than %d bytes", maxEnvironments)
	}
	if err := config.Decode(text, &f, false); err != nil {
		return f, err
	}
	for name, e := range f.Environments {
		if err := e.validate(name); err != nil {
			return f, err
		}
	}
	if f.Environments == nil {
		f.Environments = map[string]environment{}
	}
	return f, nil
}

func (e environment) validate(name string) error {
	switch {
	case !environmentName.MatchString(name) || name == localEnv:
		return orama.Errorf(orama.KindInvalid, "invalid_env", "%.80q is no name for an environment: letters, digits and ._- are, and %q is this machine", name, localEnv)
	case len(e.Gateways) == 0 || len(e.Gateways) > 100:
		return orama.Errorf(orama.KindInvalid, "invalid_env", "%s: 1 to 100 gateways are needed", name)
	case (e.Key == "") == (e.KeyFile == ""):
		return orama.Errorf(orama.KindInvalid, "invalid_env", "%s: a key or a key_file is needed, and not both", name)
	}
	for _, g := range e.Gateways {
		if _, err := operator.GatewayURL(g); err != nil {
			return err
		}
	}
	if e.Key != "" {
		if _, _, err := auth.ParseAPIKey(e.Key); err != nil {
			return orama.Errorf(orama.KindInvalid, "invalid_env", "%s: %v", name, err)
		}
	}
	return nil
}

// readEnvironments reads the user's file; none is an empty one.
func readEnvironments() (path string, f environmentsFile, err error) {
	if path, err = environmentsPath(); err != nil {
		return "", f, err
	}
	text, err := readSecret(path, maxEnvironments)
	if errors.Is(err, fs.ErrNotExist) {
		return path, environmentsFile{Environments: map[string]environment{}}, nil
	}
	if err != nil {
		return path, f, err
	}
	if f, err = parseEnvironments(text); err != nil {
		return path, f, orama.Errorf(orama.KindInvalid, "invalid_env", "%s: %v", path, err)
	}
	return path, f, nil
}

// readSecret reads a file that holds a key, and refuses one that others may read.
func readSecret(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, orama.Errorf(orama.KindForbidden, "readable_by_others", "%s holds a key and others may read it; chmod 600 %s", path, path)
	}
	return io.ReadAll(io.LimitReader(f, most+1))
}

// save replaces the file as a whole, readable by its owner alone.
func (f environmentsFile) save(path string) error {
	text, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".environments-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// socket finds the agent of the cluster on this machine.
func (a *app) socket(ctx context.Context) (string, error) {
	dir, err := a.dir()
	if err != nil {
		return "", err
	}
	patterns, err := role.AgentSockets(dir, a.dataDir != "", role.HostConfig, role.HostRunDir)
	if err != nil {
		return "", err
	}
	return role.FirstAgent(ctx, patterns, dir)
}

// admin speaks to the cluster that the flags name: to an agent of this machine, or to a gateway elsewhere.
func (a *app) admin(ctx context.Context) (*operator.Client, error) {
	if a.env != localEnv {
		return a.elsewhere()
	}
	socket, err := a.socket(ctx)
	if err != nil {
		return nil, err
	}
	return operator.Dial(socket), nil
}

func (a *app) elsewhere() (*operator.Client, error) {
	_, f, err := readEnvironments()
	if err != nil {
		return nil, err
	}
	e, ok := f.Environments[a.env]
	if !ok {
		return nil, orama.Errorf(orama.KindNotFound, "unknown_env", "there is no environment %q; 'orama env list' shows those there are, 'orama env add' makes one", a.env)
	}
	key := e.Key
	if e.KeyFile != "" {
		text, err := readSecret(e.KeyFile, maxSecretFile)
		if err != nil {
			return nil, fmt.Errorf("the operator key of %s: %w", a.env, err)
		}
		key = strings.TrimSpace(string(text))
	}
	roots, err := e.roots()
	if err != nil {
		return nil, err
	}
	return operator.DialGateways(e.Gateways, key, roots)
}

func (e environment) roots() (*x509.CertPool, error) {
	if e.CAFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(e.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without roots has these
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, orama.Errorf(orama.KindInvalid, "invalid_env", "ca_file: %s holds no certificate", e.CAFile)
	}
	return pool, nil
}

func (a *app) environments() *cobra.Command {
	return group(&cobra.Command{Use: "env", Short: "Keep the clusters that --env names"}, a.envAdd(), a.envList(), a.envRemove())
}

func (a *app) envAdd() *cobra.Command {
	var e environment
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a cluster, or change it", Args: args(cobra.ExactArgs(1)),
		Long: `Add a cluster elsewhere to ~/.config/orama/environments.yaml, or change it. Its operator key is
read from standard input, so that it is in no command line; 'orama operator-key create' on one of
its nodes makes one. With --key-file it stays in that file.`,
		Example: `  orama env add devnet --gateway https://gw1.example.org --gateway https://gw2.example.org
  ssh node-1 sudo orama operator-key create --quiet | orama env add devnet --gateway https://gw1.example.org
  orama env add lab --gateway https://10.0.0.1:8443 --ca-file ca.pem --key-file lab.key`,
		RunE: func(c *cobra.Command, given []string) error {
			for _, file := range []*string{&e.KeyFile, &e.CAFile} {
				if *file != "" {
					abs, err := filepath.Abs(*file)
					if err != nil {
						return err
					}
					*file = abs
				}
			}
			if e.KeyFile == "" {
				key, err := a.askKey(c.InOrStdin(), given[0])
				if err != nil {
					return err
				}
				e.Key = key
			}
			return a.addEnvironment(given[0], e)
		},
	}
	c.Flags().StringArrayVar(&e.Gateways, "gateway", nil, "URL of a gateway of the cluster; may be repeated, the first that answers is used (required)")
	c.Flags().StringVar(&e.KeyFile, "key-file", "", "file that holds the operator key, instead of standard input")
	c.Flags().StringVar(&e.CAFile, "ca-file", "", "PEM file of the roots of the gateways' certificates, beside the system's")
	return c
}

func (a *app) addEnvironment(name string, e environment) error {
	if err := e.validate(name); err != nil {
		return err
	}
	if _, err := e.roots(); err != nil {
		return err
	}
	path, f, err := readEnvironments()
	if err != nil {
		return err
	}
	f.Environments[name] = e
	if err := f.save(path); err != nil {
		return err
	}
	if a.json {
		a.print(map[string]any{"env": name, "gateways": e.Gateways, "file": path})
		return nil
	}
	a.say("Environment %s is in %s.\nNext: orama monitor report --env %s", name, path, name)
	return nil
}

// askKey reads one line. At a terminal it asks for it, and does not show what is typed.
func (a *app) askKey(in io.Reader, name string) (string, error) {
	if f, ok := in.(*os.File); ok {
		if restore, err := quiet(int(f.Fd())); err == nil { //nolint:gosec // a descriptor fits
			defer restore()
			fmt.Fprintf(a.err, "Operator key of %s: ", name)
			defer fmt.Fprintln(a.err)
		}
	}
	text, err := io.ReadAll(io.LimitReader(oneLine{in}, maxSecretFile))
	if err != nil {
		return "", err
	}
	if key := strings.TrimSpace(string(text)); key != "" {
		return key, nil
	}
	return "", orama.Errorf(orama.KindInvalid, "no_key", "no operator key came on standard input; 'orama operator-key create' on a node of the cluster makes one")
}

// oneLine ends at the first line's end, so that a terminal need not be closed.
type oneLine struct{ io.Reader }

func (o oneLine) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := o.Reader.Read(p[:1])
	if n == 1 && p[0] == '\n' {
		return 0, io.EOF
	}
	return n, err
}

// quiet has a terminal show nothing of what is typed, until restore. An error means that it is no terminal.
func quiet(fd int) (restore func(), err error) {
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	now := *was
	now.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &now); err != nil {
		return nil, err
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, was) }, nil //nolint:errcheck // it was a terminal a moment ago
}

func (a *app) envList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the clusters, without their keys", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			path, f, err := readEnvironments()
			if err != nil {
				return err
			}
			names := slices.Sorted(maps.Keys(f.Environments))
			if a.json {
				type entry struct {
					Name     string   `json:"name"`
					Gateways []string `json:"gateways"`
				}
				out := []entry{}
				for _, n := range names {
					out = append(out, entry{n, f.Environments[n].Gateways})
				}
				a.print(map[string]any{"file": path, "environments": out})
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tREACHED BY")
			fmt.Fprintf(w, "%s\tthe agent on this machine\n", localEnv)
			for _, n := range names {
				fmt.Fprintf(w, "%s\t%s\n", n, strings.Join(f.Environments[n].Gateways, " "))
			}
			return w.Flush()
		},
	}
}

func (a *app) envRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a cluster and its key", Args: args(cobra.ExactArgs(1)),
		Long:    "Forget a cluster and its key. The key itself stays good until 'orama operator-key remove' ends it.",
		Example: "  orama env remove devnet",
		RunE: func(_ *cobra.Command, given []string) error {
			path, f, err := readEnvironments()
			if err != nil {
				return err
			}
			if _, ok := f.Environments[given[0]]; !ok {
				return orama.Errorf(orama.KindNotFound, "unknown_env", "there is no environment %q; 'orama env list' shows those there are", given[0])
			}
			delete(f.Environments, given[0])
			if err := f.save(path); err != nil {
				return err
			}
			if a.json {
				a.print(map[string]any{"env": given[0], "removed": true})
				return nil
			}
			a.say("Environment %s is forgotten.", given[0])
			return nil
		},
	}
}

func (a *app) operatorKey() *cobra.Command {
	return group(&cobra.Command{Use: "operator-key", Short: "Make the keys by which operators reach a cluster from elsewhere"},
		a.operatorKeyCreate(), a.operatorKeyRemove())
}

func (a *app) operatorKeyCreate() *cobra.Command {
	var bare bool
	c := &cobra.Command{
		Use: "create", Short: "Make an operator key and print it, once", Args: args(cobra.NoArgs),
		Long: `Make a key that lets its holder do everything that this command line does, over any gateway of
the cluster. It is shown this once and kept nowhere. Only an agent's socket makes keys, so this
runs on a node.`,
		Example: "  orama operator-key create\n  orama operator-key create --quiet | ssh laptop orama env add devnet --gateway https://gw1.example.org",
		RunE: func(c *cobra.Command, _ []string) error {
			admin, err := a.onNode(c.Context())
			if err != nil {
				return err
			}
			k, err := admin.CreateOperatorKey(c.Context())
			switch {
			case err != nil:
				return err
			case a.json:
				a.print(k)
			case bare:
				a.say("%s", k.Key)
			default:
				a.say("Operator key %s is made. Shown this once:\n\n  %s\n\nNext, elsewhere: orama env add NAME --gateway https://…", k.ID, k.Key)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&bare, "quiet", "q", false, "print nothing but the key")
	return c
}

func (a *app) operatorKeyRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "End an operator key", Args: args(cobra.ExactArgs(1)),
		Long:    "End an operator key at once. Its id is what follows \"orama_\" in it, up to the next \"_\".",
		Example: "  orama operator-key remove abcdefghijklmnop",
		RunE: func(c *cobra.Command, given []string) error {
			admin, err := a.onNode(c.Context())
			if err != nil {
				return err
			}
			if err := admin.RemoveOperatorKey(c.Context(), given[0]); err != nil {
				return err
			}
			if a.json {
				a.print(map[string]any{"id": given[0], "removed": true})
				return nil
			}
			a.say("Operator key %s is ended.", given[0])
			return nil
		},
	}
}

// onNode speaks to an agent of this machine alone.
func (a *app) onNode(ctx context.Context) (*operator.Client, error) {
	socket, err := a.socket(ctx)
	if err != nil {
		return nil, err
	}
	return operator.Dial(socket), nil
}
