"""libvirt documents as typed data: one small class an element, built with ElementTree."""
