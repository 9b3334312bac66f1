"""Parts that several tests use: server processes and raw sockets."""
