"""Brokers order and store publications, and carry them between processes.

`base` is the contract of all brokers.
"""
