"""The API for back ends, over HTTP."""
