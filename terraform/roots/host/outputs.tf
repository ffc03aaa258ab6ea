output "pool" {
  description = "Name of the pool"
  value       = module.pool.name
}

output "images" {
  description = "Path of every base image on the host, by the name of its volume"
  value       = { for name, image in module.image : name => image.path }
}
