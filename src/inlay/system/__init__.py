"""This machine and this process: system calls, privileges, the user namespace of a build, programs."""
