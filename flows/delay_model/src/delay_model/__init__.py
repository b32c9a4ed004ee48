"""The weekly training of a model of departure delay, on the days that the daily ETL loaded."""
