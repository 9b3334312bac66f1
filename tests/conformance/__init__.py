"""Programs of others that speak the client protocol, against servers of ours."""
