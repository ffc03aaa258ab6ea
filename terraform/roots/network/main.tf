# The network of one project on one host.

provider "libvirt" {
  uri = var.uri
}

module "network" {
  source = "../../modules/network"

  name   = var.name
  bridge = var.bridge
  mode   = var.mode
  cidr   = var.cidr
  domain = var.domain
  dns    = var.dns
}
