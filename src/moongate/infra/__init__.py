"""What makes an Envoy run: its bootstrap, the process on this machine, its logs, its leftovers."""
