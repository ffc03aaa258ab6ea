"""Innkeeper: provisions and looks after virtual machines for people who own their hosts."""
