output "network" {
  description = "UUID of the network"
  value       = module.network.id
}
