"""Importing images: fetch, verify, inspect, convert, publish."""
