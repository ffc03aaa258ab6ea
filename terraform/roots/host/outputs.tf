output "pool" {
  description = "Name of the pool"
  value       = module.pool.name
}

output "images" {
  description = "Path of every base image on the host, by the name of its volume"
  value       = { for name, image in module.image : name => image.path }
}

output "fingerprint" {
  description = "What was applied last as a whole; a failed apply leaves the one before"
  value       = var.fingerprint
  depends_on  = [module.pool, module.image]
}
