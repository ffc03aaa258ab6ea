"""The command line: a thin edge that speaks to the REST API."""
