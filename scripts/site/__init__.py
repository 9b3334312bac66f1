"""Builds the site with the documentation: extension, tables, diagrams, checks."""
