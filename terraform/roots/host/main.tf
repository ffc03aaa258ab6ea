# What every server on a host stands on: one storage pool and the base images in it.

provider "libvirt" {
  uri = var.uri
}

module "pool" {
  source = "../../modules/pool"

  name = var.pool.name
  path = var.pool.path
}

module "image" {
  source   = "../../modules/image"
  for_each = var.images

  name        = each.key
  pool        = module.pool.name
  source_path = each.value.source
  format      = each.value.format
}
