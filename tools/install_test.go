package tools_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// On a machine that has Go and apt and nothing else, everything else is asked of apt. Somebody who is not root is told of it
// all, so that nothing is installed here.
func TestGoIsAllThatIsNeeded(t *testing.T) {
	bin := t.TempDir()
	for name, does := range map[string]string{"apt-get": "exit 1", "id": "echo 1000", "go": ""} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+does+"\n"), 0o700)) //nolint:gosec // a program
	}
	for _, name := range []string{"bash", "dirname"} {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	install := exec.Command(filepath.Join(bin, "bash"), "install")
	install.Env = []string{"PATH=" + bin}
	said, err := install.CombinedOutput()
	require.ErrorContains(t, err, "exit status 1")
	require.Contains(t, string(said), "run as root")
	for _, name := range []string{"nodejs", "npm", "git", "gcc", "chromium", "firefox-esr", "systemd-container"} {
		require.Contains(t, string(said), " "+name)
	}

	require.NoError(t, os.Remove(filepath.Join(bin, "go")))
	install = exec.Command(filepath.Join(bin, "bash"), "install")
	install.Env = []string{"PATH=" + bin}
	said, err = install.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "go is missing")
}
