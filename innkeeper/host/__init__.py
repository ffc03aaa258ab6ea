"""What Innkeeper does on a host outside libvirt: commands, files and the network edge."""
