"""What is done inside a running guest: Ansible roles, chosen from a catalogue."""
