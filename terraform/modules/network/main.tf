resource "libvirt_network" "this" {
  name      = var.name
  bridge    = var.bridge
  mode      = var.mode
  domain    = var.domain
  addresses = [var.cidr]
  autostart = true

  dhcp {
    enabled = true
  }

  dns {
    enabled    = true
    local_only = true
  }
}
