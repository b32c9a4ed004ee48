"""The HTTP API: what callers may ask, and how it is answered. The rules are in `runs`, the memory in `ledger`."""
