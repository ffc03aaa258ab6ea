"""The database: tables, column types, sessions and migrations."""
