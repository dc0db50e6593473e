"""The state directory of builds: what is in it, what takes room there, and what may go."""
