// Pins the sources of OpenTofu, built where neither Terraform nor its release server is there.
// The replace line repeats that of its own go.mod.
module innkeeper.dev/setup/tofu

go 1.23

require github.com/opentofu/opentofu v1.9.1

replace github.com/hashicorp/hcl/v2 v2.20.1 => github.com/opentofu/hcl/v2 v2.0.0-20240814143621-8048794c5c52
