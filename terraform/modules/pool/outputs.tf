output "name" {
  description = "Name of the pool, known once it is active"
  value       = libvirt_pool.this.name
}
