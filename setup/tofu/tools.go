//go:build tools

// Package tofu keeps OpenTofu's command among the requirements of go.mod.
package tofu

import _ "github.com/opentofu/opentofu/cmd/tofu"
