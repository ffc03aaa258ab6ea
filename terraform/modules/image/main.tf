resource "libvirt_volume" "this" {
  name   = var.name
  pool   = var.pool
  source = var.source_path
  format = var.format

  lifecycle {
    # The name is the hash of the content: another source is the same image, found elsewhere.
    ignore_changes = [source]
  }
}
