// Package web holds the pages that every gateway serves: the demo, the plain client, and the SDK
// as one file. They are built from TypeScript ahead of time (package web/build) and committed, so
// this package does nothing but embed them. It serves nothing itself: the gateway does.
package web

import (
	"embed"
	"io/fs"
)

//go:generate go run generate.go

//go:embed dist
var dist embed.FS

// FS holds demo/ (the pages under /demo/) and sdk/ (the SDK, under /sdk/).
func FS() fs.FS {
	sub, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}
