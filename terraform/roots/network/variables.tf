variable "uri" {
  description = "Libvirt URI of the host"
  type        = string
  nullable    = false
}

variable "name" {
  description = "Name of the libvirt network"
  type        = string
  nullable    = false
}

variable "bridge" {
  description = "Name of the bridge on the host"
  type        = string
  nullable    = false
}

variable "mode" {
  description = "Forward mode"
  type        = string
  nullable    = false
  default     = "open"
}

variable "cidr" {
  description = "Network of the guests"
  type        = string
  nullable    = false
}

variable "domain" {
  description = "DNS domain of the guests"
  type        = string
  nullable    = false
  default     = "innkeeper.internal"
}

variable "fingerprint" {
  description = "Hash of this root and its other variables, kept in the state"
  type        = string
  nullable    = false
  default     = ""
}

variable "dns" {
  description = "Whether the host answers for names on the network"
  type        = bool
  nullable    = false
  default     = true
}
