"""Pure rules of Innkeeper: no I/O, no clock, no randomness."""
