"""The command `tocsin`: argument parsing and wiring, nothing else."""
