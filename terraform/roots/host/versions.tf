terraform {
  required_version = ">= 1.5"

  required_providers {
    libvirt = {
      source  = "dmacvicar/libvirt"
      version = "= 0.8.3" # later ones are a rewrite that loses data; see docs/architecture.md
    }
  }
}
