"""The REST API: thin endpoints over the services."""
