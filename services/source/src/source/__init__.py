"""A stand-in for a team's upstream API: real flight and weather records by day, with faults on demand."""
