output "network" {
  description = "UUID of the network"
  value       = module.network.id
}

output "fingerprint" {
  description = "What was applied last as a whole; a failed apply leaves the one before"
  value       = var.fingerprint
  depends_on  = [module.network]
}
