variable "name" {
  description = "Name of the libvirt network"
  type        = string
  nullable    = false
}

variable "bridge" {
  description = "Name of the bridge on the host"
  type        = string
  nullable    = false

  validation {
    condition     = length(var.bridge) >= 1 && length(var.bridge) <= 15
    error_message = "Linux allows 1 to 15 characters in the name of a bridge."
  }
}

variable "mode" {
  description = "Forward mode; open: libvirt adds no packet filter and the host's edge decides; none: isolated"
  type        = string
  nullable    = false
  default     = "open"

  validation {
    condition     = contains(["open", "none", "route"], var.mode)
    error_message = "The mode is open, none or route: in mode nat libvirt refuses forwarded connections."
  }
}

variable "cidr" {
  description = "Network of the guests; its first address is the host's"
  type        = string
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.cidr))
    error_message = "The network must be an IPv4 network such as 10.64.0.0/24."
  }
}

variable "domain" {
  description = "DNS domain of the guests"
  type        = string
  nullable    = false
}

variable "dns" {
  description = "Whether the host answers for names on the network"
  type        = bool
  nullable    = false
  default     = true
}
