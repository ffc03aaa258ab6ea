//go:build tools

// Package provider keeps the libvirt provider among the requirements of go.mod.
package provider

import _ "github.com/dmacvicar/terraform-provider-libvirt"
