"""Prefect tasks, by the system they touch; each undo stands right beneath its do."""
