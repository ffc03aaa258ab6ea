"""What API, CLI and tasks may do to the database: one transaction a call."""
