"""Prefect flows: one verb a file, the graph reads top to bottom."""
