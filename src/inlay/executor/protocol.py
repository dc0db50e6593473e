"""What the build and its zygote say to each other.

Over a SOCK_SEQPACKET pair, the zygote's end of which is `CONTROL_FD`: each message is one step, `STEP` or
`TRUSTED_STEP` (which may open any device), with its descriptors: its payload (a memory file: the kind of step and its
keyword arguments, marshalled), its channel, then stdout, stderr and what the arguments refer to by position. On the
channel the step's side reports, marshalled:

    ("failed", errno, what)   the step could not be set up
    ("exec", errno)           its program could not be executed
    ("exit", code)            it is over; always the last message

Anything sent on the channel, or closing it, kills the step. When the control socket ends (the build is over, or was
killed) everything ends.
"""

from __future__ import annotations

CONTROL_FD = 3
MAX_DESCRIPTORS = 250  # the kernel passes 253 with one message
STEP, TRUSTED_STEP = b"step", b"trusted step"
