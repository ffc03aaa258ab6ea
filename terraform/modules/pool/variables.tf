variable "name" {
  description = "Name of the storage pool"
  type        = string
  nullable    = false
}

variable "path" {
  description = "Folder of the pool on the host"
  type        = string
  nullable    = false

  validation {
    condition     = startswith(var.path, "/")
    error_message = "The pool's path must be absolute."
  }
}
