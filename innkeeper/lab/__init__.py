"""Disposable libvirt hosts on one machine, for the demo and the tests.

Each is a set of namespaces with a libvirtd of its own; nothing here is needed on real hosts.
"""
