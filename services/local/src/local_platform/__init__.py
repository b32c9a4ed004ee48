"""The whole platform as processes on one machine, without a cluster."""
