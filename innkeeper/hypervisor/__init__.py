"""Adapter to libvirt: the only package that imports it."""
