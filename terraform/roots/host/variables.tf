variable "uri" {
  description = "Libvirt URI of the host"
  type        = string
  nullable    = false
}

variable "pool" {
  description = "Storage pool of the servers' disks"
  type = object({
    name = string
    path = string
  })
  nullable = false
}

variable "images" {
  description = "Base images by the name of their volume"
  type = map(object({
    source = string
    format = optional(string, "qcow2")
  }))
  nullable = false
  default  = {}

  validation {
    condition     = alltrue([for name in keys(var.images) : can(regex("^[A-Za-z0-9][A-Za-z0-9._-]*$", name))])
    error_message = "The name of a volume has letters, digits, '.', '_' and '-' only."
  }
}

variable "fingerprint" {
  description = "Hash of this root and its other variables, kept in the state"
  type        = string
  nullable    = false
  default     = ""
}
