// Package auth mints and verifies everything that proves who somebody is: tokens, API keys,
// join tickets and TURN credentials, with minting and verifying side by side. It also seals
// secrets at rest. It stores nothing and knows no network.
package auth
