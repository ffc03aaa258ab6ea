output "path" {
  description = "Path of the base volume on the host"
  value       = libvirt_volume.this.id
}
