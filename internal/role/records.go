package role

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"orama.network/orama/internal/cache"
	"orama.network/orama/internal/config"
	"orama.network/orama/internal/store"
)

// openRecords opens the cluster's records as they are configured. That they cannot be reached now is no error.
func openRecords(ctx context.Context, c config.Store, log *slog.Logger) (*store.Store, error) {
	password, err := readPassword(c.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	s, err := store.Open(ctx, store.Options{Engine: c.Engine, File: c.File, URLs: c.URLs, User: c.User, Password: password, Log: log})
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	return s, nil
}

// openCache opens what gateways share for a short time. That it cannot be reached is no error: each gateway then counts alone.
func openCache(c config.Cache, log *slog.Logger) (*cache.Cache, error) {
	password, err := readPassword(c.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return cache.Open(cache.Options{Engine: c.Engine, Addresses: c.Addresses, Password: password, Keys: rateKeys, Log: log})
}

// readPassword reads a password's file; none without a path.
func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
