"""One adapter for each WSGI server; table.py lists them, base.py is the contract."""
