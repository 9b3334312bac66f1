"""What the tests share: server processes, raw sockets."""
