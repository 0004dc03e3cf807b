"""Worker processes that host the simulators, and their shared memory."""
