"""Deployments, work pools, automations and limits, and the program that applies them."""
