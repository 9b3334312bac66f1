"""A chat application on falcon-channels: rooms, messages, members, images."""
