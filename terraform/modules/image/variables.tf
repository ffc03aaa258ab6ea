variable "name" {
  description = "Name of the base volume"
  type        = string
  nullable    = false
}

variable "pool" {
  description = "Pool that keeps the volume"
  type        = string
  nullable    = false
}

variable "source_path" {
  description = "Verified image on this machine; it is uploaded over the libvirt connection"
  type        = string
  nullable    = false
}

variable "format" {
  description = "Format of the image"
  type        = string
  nullable    = false
  default     = "qcow2"

  validation {
    condition     = contains(["qcow2", "raw"], var.format)
    error_message = "The format of an image is qcow2 or raw."
  }
}
