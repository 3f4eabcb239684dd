// Command orama runs real-time voice, video and data on machines its operator owns.
package main

import (
	"os"

	"orama.network/orama/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
