package store

import (
	"context"
	"errors"
	"fmt"

	"orama.network/orama"
)

// schemaVersion is kept in meta. Records of a later version is refused, not guessed at.
const schemaVersion = 4

// Times are microseconds since 1970, 0 for none: below 2^53, so that JSON numbers carry them exactly.
// Booleans are 0 and 1.
var schema = []string{
	`CREATE TABLE IF NOT EXISTS meta (
		key TEXT NOT NULL PRIMARY KEY,
		value INTEGER NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS nodes (
		id TEXT NOT NULL PRIMARY KEY,
		public_ip TEXT NOT NULL,
		mesh_ip TEXT NOT NULL,
		zone TEXT NOT NULL,
		gateway_url TEXT NOT NULL,
		heartbeat INTEGER NOT NULL,
		mesh_key TEXT NOT NULL DEFAULT '',
		mesh_endpoint TEXT NOT NULL DEFAULT '',
		report TEXT NOT NULL DEFAULT '{}')`,
	`CREATE TABLE IF NOT EXISTS namespaces (
		id TEXT NOT NULL PRIMARY KEY,
		created_at INTEGER NOT NULL,
		allowed_origins TEXT NOT NULL,
		closed_rooms INTEGER NOT NULL,
		max_participants INTEGER NOT NULL DEFAULT 0)`,
	`CREATE TABLE IF NOT EXISTS namespace_webrtc_config (
		namespace TEXT NOT NULL PRIMARY KEY,
		enabled INTEGER NOT NULL,
		turn_secret TEXT NOT NULL,
		credential_ttl INTEGER NOT NULL,
		turn_nodes INTEGER NOT NULL,
		sfu_nodes INTEGER NOT NULL,
		created_at INTEGER NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS webrtc_instances (
		namespace TEXT NOT NULL,
		node TEXT NOT NULL,
		role TEXT NOT NULL,
		desired TEXT NOT NULL,
		state TEXT NOT NULL,
		since INTEGER NOT NULL,
		at INTEGER NOT NULL,
		detail TEXT NOT NULL,
		boot TEXT NOT NULL,
		PRIMARY KEY (namespace, node, role))`,
	// Blocks of one kind start at multiples, so the unique index alone forbids a second owner of a block; the
	// insert also refuses blocks that overlap.
	`CREATE TABLE IF NOT EXISTS webrtc_port_allocations (
		namespace TEXT NOT NULL,
		node TEXT NOT NULL,
		role TEXT NOT NULL,
		kind TEXT NOT NULL,
		address TEXT NOT NULL,
		first_port INTEGER NOT NULL,
		port_count INTEGER NOT NULL,
		PRIMARY KEY (namespace, node, role, kind))`,
	`CREATE UNIQUE INDEX IF NOT EXISTS webrtc_port_owner ON webrtc_port_allocations (address, first_port)`,
	`CREATE TABLE IF NOT EXISTS webrtc_rooms (
		namespace TEXT NOT NULL,
		room_id TEXT NOT NULL,
		sfu_node TEXT NOT NULL,
		boot TEXT NOT NULL,
		epoch INTEGER NOT NULL,
		permanent INTEGER NOT NULL,
		created_at INTEGER NOT NULL,
		updated_at INTEGER NOT NULL,
		state TEXT NOT NULL DEFAULT '',
		state_revision INTEGER NOT NULL DEFAULT 0,
		PRIMARY KEY (namespace, room_id))`,
	`CREATE TABLE IF NOT EXISTS webrtc_kicks (
		namespace TEXT NOT NULL,
		room_id TEXT NOT NULL,
		user_id TEXT NOT NULL,
		at INTEGER NOT NULL,
		PRIMARY KEY (namespace, room_id, user_id))`,
	`CREATE TABLE IF NOT EXISTS api_keys (
		id TEXT NOT NULL PRIMARY KEY,
		namespace TEXT NOT NULL,
		role TEXT NOT NULL,
		secret_hash TEXT NOT NULL,
		created_at INTEGER NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS api_keys_of ON api_keys (namespace)`,
	`CREATE TABLE IF NOT EXISTS dns_records (
		name TEXT NOT NULL,
		value TEXT NOT NULL,
		ttl INTEGER NOT NULL,
		namespace TEXT NOT NULL,
		PRIMARY KEY (name, value))`,
	`CREATE TABLE IF NOT EXISTS events (
		id TEXT NOT NULL PRIMARY KEY,
		at INTEGER NOT NULL,
		kind TEXT NOT NULL,
		namespace TEXT NOT NULL,
		node TEXT NOT NULL,
		detail TEXT NOT NULL)`,
	`CREATE INDEX IF NOT EXISTS events_at ON events (at, id)`,
	`CREATE TABLE IF NOT EXISTS dns_txt (
		name TEXT NOT NULL,
		value TEXT NOT NULL,
		ttl INTEGER NOT NULL,
		expires INTEGER NOT NULL,
		PRIMARY KEY (name, value))`,
	`CREATE TABLE IF NOT EXISTS kept_files (
		path TEXT NOT NULL PRIMARY KEY,
		content TEXT NOT NULL,
		modified INTEGER NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS locks (
		name TEXT NOT NULL PRIMARY KEY,
		holder TEXT NOT NULL,
		until INTEGER NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS join_tokens (
		hash TEXT NOT NULL PRIMARY KEY,
		created_at INTEGER NOT NULL,
		expires INTEGER NOT NULL,
		used_at INTEGER NOT NULL,
		used_by TEXT NOT NULL)`,
	// The first revision is 1, so that a change without a base is a conflict.
	`INSERT INTO meta (key, value) VALUES ('revision', 1) ON CONFLICT (key) DO NOTHING`,
	// A migration has set it already; and a later program may just have been first.
	`INSERT INTO meta (key, value) VALUES ('schema', 4) ON CONFLICT (key) DO NOTHING`,
}

// migrations[v] leads from schema v to v+1. The statements of schema follow, for the tables that are new.
var migrations = map[int64][]string{
	1: {
		`ALTER TABLE nodes ADD COLUMN mesh_key TEXT NOT NULL DEFAULT ''`,
		`ALTER TABLE nodes ADD COLUMN mesh_endpoint TEXT NOT NULL DEFAULT ''`,
		`ALTER TABLE nodes ADD COLUMN report TEXT NOT NULL DEFAULT '{}'`,
	},
	2: {
		`ALTER TABLE webrtc_rooms ADD COLUMN state TEXT NOT NULL DEFAULT ''`,
		`ALTER TABLE webrtc_rooms ADD COLUMN state_revision INTEGER NOT NULL DEFAULT 0`,
	},
	3: {
		`ALTER TABLE namespaces ADD COLUMN max_participants INTEGER NOT NULL DEFAULT 0`,
	},
}

// errLater is of records that a later program has migrated.
type errLater int64

func (v errLater) Error() string {
	return fmt.Sprintf("the records have schema %d; this program knows %d: use the version that made them", int64(v), schemaVersion)
}

// prepareSchema creates the tables, or migrates them. Others may be at it with the same records: whoever comes second
// finds it done.
func prepareSchema(ctx context.Context, e engine) error {
	for {
		version, err := readVersion(ctx, e)
		switch {
		case err != nil:
			return err
		case version > schemaVersion:
			return errLater(version)
		case version == schemaVersion:
			return nil
		}
		if err := e.write(ctx, migration(version)); !errors.Is(err, orama.ErrConflict) {
			return err
		}
	}
}

// migration leads from a version, 0 for nothing at all, to the present one.
func migration(version int64) []statement {
	var batch []statement
	if version > 0 {
		batch = append(batch, stmt(1, `UPDATE meta SET value = ? WHERE key = 'schema' AND value = ?`, int64(schemaVersion), version))
	}
	for v := version; v > 0 && v < schemaVersion; v++ {
		for _, s := range migrations[v] {
			batch = append(batch, stmt(anyRows, s))
		}
	}
	for _, s := range schema {
		batch = append(batch, stmt(anyRows, s))
	}
	return batch
}

func readVersion(ctx context.Context, e engine) (int64, error) {
	got, err := e.read(ctx, stmt(anyRows, `SELECT count(*) FROM sqlite_master WHERE name = 'meta'`))
	if err != nil || got[0][0].int(0) == 0 {
		return 0, err
	}
	got, err = e.read(ctx, stmt(anyRows, `SELECT value FROM meta WHERE key = 'schema'`))
	if err != nil || len(got[0]) == 0 {
		return 0, err
	}
	return got[0][0].int(0), nil
}
