"""Names of this machine. Any process."""

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
"""What browsers and people write for it; as a Host or Origin none of them is foreign."""
