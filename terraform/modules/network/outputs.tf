output "id" {
  description = "UUID of the network"
  value       = libvirt_network.this.id
}
