"""The daily ETL: one day of flights and weather from the source into the warehouse."""
