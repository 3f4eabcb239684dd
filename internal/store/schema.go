package store

// schemaVersion is kept in meta. A file of a later version is refused, not guessed at.
const schemaVersion = 2

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
		closed_rooms INTEGER NOT NULL)`,
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
		PRIMARY KEY (namespace, room_id))`,
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
	// The first revision is 1, so that a change without a base is a conflict.
	`INSERT INTO meta (key, value) VALUES ('revision', 1) ON CONFLICT (key) DO NOTHING`,
	`INSERT INTO meta (key, value) VALUES ('schema', 2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
}

// migrations[v] leads from schema v to v+1. The statements of schema follow, for the tables that are new.
var migrations = map[int64][]string{
	1: {
		`ALTER TABLE nodes ADD COLUMN mesh_key TEXT NOT NULL DEFAULT ''`,
		`ALTER TABLE nodes ADD COLUMN mesh_endpoint TEXT NOT NULL DEFAULT ''`,
		`ALTER TABLE nodes ADD COLUMN report TEXT NOT NULL DEFAULT '{}'`,
	},
}
