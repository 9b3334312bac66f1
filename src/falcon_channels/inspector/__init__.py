"""The inspector: a page that shows all processes, and the API of this page."""
