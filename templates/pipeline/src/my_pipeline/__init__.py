"""The pipeline my_pipeline, built on etl.daily."""
