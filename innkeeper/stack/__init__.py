"""The programs of one machine, run on loopback under supervisord."""
